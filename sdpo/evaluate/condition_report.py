"""The condition of the models as a table on the terminal, as JSON and as a section of a page."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from markupsafe import Markup

from sdpo.evaluate.evidence import Condition
from sdpo.runtime import statistics

# Column -> the figure's name and its decimal places.
COLUMNS = {
    "fluency": ("fluency", 2),
    "surprise": ("surprise", 3),
    "topic": ("topic", 2),
    "leak": ("leak", 3),
    "distance": ("distance", 4),
    "log p": ("log_probability", 3),
    "distinct": ("diversity", 2),
    "phrases": ("distinct_phrases", 2),
    "words": ("words", 1),
    "refusals": ("refusals", 3),
    "other lang.": ("other_language", 3),
    "malformed": ("malformed", 3),
}
DISTINCT = "distinct: of several answers to one prompt, the share that differ, which the verdict calls diversity"
MEANING = (
    "Figures by the start model, in nats a token: fluency (higher is better), surprise (near 0), topic (higher), "
    "distance (0 is the start). Shares: leak, distinct answers and phrases, refusals, answers in another language, "
    f"malformed answers; {DISTINCT}."
)


def adherence_of(condition: Condition) -> tuple[float, float, float] | None:
    """Return the share of answers that fit the style and its 95 % interval (Wilson); None where nothing reads it."""
    if not condition.fits:
        return None
    suitable = sum(condition.fits)
    interval = statistics.wilson(suitable, len(condition.fits) - suitable)
    assert interval is not None  # there are answers
    return suitable / len(condition.fits), *interval


def as_json(condition: Condition) -> dict:
    """Return a condition's figures, rounded; of `fits` the share, its interval and the number of answers."""
    figures: dict = {
        name: rounded(value) for name, value in asdict(condition).items() if name not in ("fits", "by_kind")
    }
    figures["by_kind"] = {kind: rounded(value) for kind, value in condition.by_kind.items()}
    share, low, high = adherence_of(condition) or (None, None, None)
    return figures | {
        "adherence": rounded(share),
        "adherence_low": rounded(low),
        "adherence_high": rounded(high),
        "read": len(condition.fits or ()),
    }


def condition_table(conditions: Mapping[str, Condition]) -> str:
    """Return a text table with a row per model, and one of the distances by kind if there are several kinds."""
    names = header(conditions)
    parts = [aligned([["model", *names], *cells(conditions)]) + (f"\n{DISTINCT}" if "distinct" in names else "")]
    if len(kinds := _kinds(conditions)) > 1:
        rows = [[name, *(_number(row.by_kind.get(kind), 4) for kind in kinds)] for name, row in conditions.items()]
        parts.append("distance by kind of prompt\n" + aligned([["model", *kinds], *rows]))
    return "\n\n".join(parts)


def condition_section(conditions: Mapping[str, Condition], notes: Sequence[str]) -> Markup:
    """Return the section of a page with the same tables; empty without conditions."""
    if not conditions:
        return Markup("")
    body = Markup("<h2>Condition</h2>\n") + _html_table([["model", *header(conditions)], *cells(conditions)])
    if len(kinds := _kinds(conditions)) > 1:
        rows = [[name, *(_number(row.by_kind.get(kind), 4) for kind in kinds)] for name, row in conditions.items()]
        body += Markup("<h3>Distance by kind of prompt</h3>\n") + _html_table([["model", *kinds], *rows])
    return body + Markup("").join(Markup('<p class="persona">{}</p>\n').format(text) for text in (MEANING, *notes))


def header(conditions: Mapping[str, Condition]) -> list[str]:
    """Return the names of the columns that any model has a figure for."""
    return _shown(conditions) + (["fits", "95 %"] if any(row.fits for row in conditions.values()) else [])


def cells(conditions: Mapping[str, Condition]) -> list[list[str]]:
    """Return the rows of the table: the model's name, then its figures."""
    shown, reads = _shown(conditions), any(row.fits for row in conditions.values())
    rows: list[list[str]] = []
    for name, condition in conditions.items():
        row = [name, *(_number(getattr(condition, COLUMNS[column][0]), COLUMNS[column][1]) for column in shown)]
        if reads:
            found = adherence_of(condition)
            row += ["–", "–"] if found is None else [f"{found[0]:.3f}", f"[{found[1]:.3f}, {found[2]:.3f}]"]
        rows.append(row)
    return rows


def _shown(conditions: Mapping[str, Condition]) -> list[str]:
    return [
        column
        for column, (name, _) in COLUMNS.items()
        if any(getattr(condition, name) is not None for condition in conditions.values())
    ]


def _kinds(conditions: Mapping[str, Condition]) -> list[str]:
    return list(dict.fromkeys(kind for condition in conditions.values() for kind in condition.by_kind))


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a text table: a line under the first row, the first column to the left and all others right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _html_table(rows: Sequence[Sequence[str]]) -> Markup:
    def line(cells: Sequence[str], tag: str) -> Markup:
        return Markup("<tr>{}</tr>\n").format(
            Markup("").join(Markup(f"<{tag}>{{}}</{tag}>").format(cell) for cell in cells)
        )

    body = Markup("").join(line(row, "td") for row in rows[1:])
    return Markup("<table>\n{}{}</table>\n").format(line(rows[0], "th"), body)


def _number(value: float | None, digits: int) -> str:
    # A distance of -0.0000 is rounding: it is 0.
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def rounded(value: float | None) -> float | None:
    """Return a figure as it is written to JSON."""
    return None if value is None else round(float(value), 6)
