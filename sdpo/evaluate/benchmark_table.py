"""The benchmarks in the report of an evaluation: a table on the terminal, and one on the page."""

from collections.abc import Sequence
from math import isnan

from markupsafe import Markup

from sdpo.evaluate.evidence import BenchmarkChange

_COLUMNS = ("benchmark", "metric", "step", "items", "baseline", "checkpoint", "difference", "s.e.")
_NOTE = "Differences are paired by item, with the standard error of their mean."


def benchmark_table(changes: Sequence[BenchmarkChange]) -> str:
    """Return the changes as a text table, by benchmark."""
    lines = [_COLUMNS, *_rows(changes)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    texts = [
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    texts.insert(1, "-" * max(map(len, texts)))
    return "\n".join([f"benchmarks. {_NOTE}", *texts])


def benchmark_section(changes: Sequence[BenchmarkChange], level: int = 2) -> Markup:
    """Return the changes as a section of a page, with a heading of this level; empty if there are none."""
    if not changes:
        return Markup("")
    rows = Markup("").join(
        Markup("<tr>{}</tr>\n").format(Markup("").join(Markup("<td>{}</td>").format(cell) for cell in row))
        for row in _rows(changes)
    )
    head = Markup("").join(Markup("<th>{}</th>").format(name) for name in _COLUMNS)
    return Markup(
        "<section>\n<h{level}>Benchmarks</h{level}>\n<p>{note}</p>\n"
        "<table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table>\n</section>\n"
    ).format(level=level, note=_NOTE, head=head, rows=rows)


def _rows(changes: Sequence[BenchmarkChange]) -> list[tuple[str, ...]]:
    order = list(dict.fromkeys(change.task for change in changes))
    return [
        (
            change.task,
            # "none" is lm-eval's name for no filter.
            change.metric.removesuffix(",none") + ("" if change.higher_is_better else " (lower is better)"),
            str(change.checkpoint),
            str(change.items),
            _shown(change.baseline),
            _shown(change.value),
            _shown(change.difference, "+.4f"),
            _shown(change.standard_error),
        )
        for change in sorted(changes, key=lambda change: (order.index(change.task), change.checkpoint))
    ]


def _shown(value: float | None, form: str = ".4f") -> str:
    """Return a figure as text; None, which a file has in place of one that is not finite, is a dash."""
    return "–" if value is None or isnan(value) else format(value, form)
