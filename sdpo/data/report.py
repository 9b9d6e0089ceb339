"""Counts of rows seen, kept and dropped, text lengths, and both as a table and a figure."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sdpo.errors import SettingError, one_line

_BLUE, _ORANGE = "#0072b2", "#d55e00"  # distinguishable by colour-blind readers
_BATCH = 500  # items whose texts are measured at once
_SHARES = (0.5, 0.9, 0.99)
_EXTRAS = (
    "forms", "not_read", "skipped_files", "duplicates", "languages", "notes", "pictures_or_files_not_shown", "ratings",
    "redacted",
)  # fmt: skip


@dataclass
class Tally:
    """Counts of what was kept and what was dropped for which reason; `seen` is the sum of both.

    `first` maps a reason to its first occurrence (file and row), if known.
    """

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    @property
    def seen(self) -> int:
        return self.kept + self.dropped.total()

    def drop(self, reason: str, count: int = 1, where: str = "") -> None:
        """Add `count` to what was dropped for a reason; `where` is its file and row, if known."""
        self.dropped[reason] += count
        if where:
            self.first.setdefault(reason, where)

    def as_dict(self) -> dict[str, Any]:
        """Return the counts, the most frequent reason first."""
        ordered = sorted(self.dropped.items(), key=lambda item: (-item[1], item[0]))
        counts = {"seen": self.seen, "kept": self.kept, "dropped": dict(ordered)}
        return counts | {"first": self.first} if self.first else counts


class Lengths:
    """The lengths of several kinds of text. Only the count of each length is stored, to save memory."""

    def __init__(self, kinds: Sequence[str], measure: "Measure") -> None:
        self.counts: dict[str, Counter[int]] = {kind: Counter() for kind in kinds}
        self.unit = measure.unit
        self._measure = measure
        self._pending: list[tuple[str, list[str]]] = []

    def add(self, kind: str, texts: list[str]) -> None:
        """Count the length of one item, the sum over its texts."""
        self._pending.append((kind, texts))
        if len(self._pending) >= _BATCH:
            self._measure_pending()

    def as_dict(self) -> dict[str, Any]:
        """Return count, mean and percentiles of each kind of text, in the measure's unit."""
        self._measure_pending()
        return {"unit": self.unit} | {kind: _statistics(counts) for kind, counts in self.counts.items() if counts}

    def _measure_pending(self) -> None:
        lengths = iter(self._measure([text for _, texts in self._pending for text in texts]))
        for kind, texts in self._pending:
            self.counts[kind][sum(next(lengths) for _ in texts)] += 1
        self._pending = []


def _statistics(counts: Mapping[int, int]) -> dict[str, float]:
    number = sum(counts.values())
    ordered = sorted(counts.items())
    statistics: dict[str, float] = {"count": number, "mean": round(sum(n * times for n, times in ordered) / number, 1)}
    statistics["shortest"] = ordered[0][0]
    for share in _SHARES:
        statistics[f"{share:.0%}"] = length_at(counts, share)
    statistics["longest"] = ordered[-1][0]
    return statistics


def length_at(counts: Mapping[int, int], share: float) -> int:
    """Return the smallest length that at least `share` of the texts do not exceed. Raises ValueError without texts."""
    wanted, reached = share * sum(counts.values()), 0
    for length, times in sorted(counts.items()):
        reached += times
        if reached >= wanted:
            return length
    raise ValueError("no lengths")


@dataclass(frozen=True)
class Measure:
    """A unit of length, characters or tokens of a model, and the function that measures texts in it."""

    unit: str
    of: Callable[[list[str]], Iterable[int]]

    def __call__(self, texts: list[str]) -> Iterable[int]:
        return self.of(texts)


def measure_of(model: str | None) -> Measure:
    """Return the measure in a model's tokens, or in characters without a model.

    Raises SettingError if the model's tokenizer cannot be loaded.
    """
    if model is None:
        return Measure("characters", lambda texts: map(len, texts))
    from tokenizers import Tokenizer

    file = Path(model).expanduser() / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(file)) if file.is_file() else Tokenizer.from_pretrained(model)
    except Exception as error:  # `tokenizers` raises no more specific type
        raise SettingError(
            f"the tokenizer.json of MODEL={model}, in whose tokens lengths are measured, cannot be loaded: "
            f"{one_line(error, 200)} Name another model, or unset MODEL to measure characters."
        ) from None

    def tokens(texts: list[str]) -> Iterable[int]:
        return (len(encoding) for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False))

    return Measure(f"tokens of {file.parent.name if file.is_file() else model}", tokens)


# Table and figure


def table(report: Mapping[str, Any]) -> str:
    """Return the report as text: counts seen, kept and dropped by reason, then lengths."""
    lines = [f"{report['job']}: {_origin(report)}"]
    for name, counts in report["counts"].items():
        lines += ["", f"{name:44} {counts['seen']:>10,}", f"  {'kept':42} {counts['kept']:>10,}"]
        first = {reason: f"  first: {where}" for reason, where in counts.get("first", {}).items()}
        lines += [
            f"  dropped: {reason:33} {count:>10,}{first.get(reason, '')}" for reason, count in counts["dropped"].items()
        ]
    extras = {name: report[name] for name in _EXTRAS if report.get(name)}
    lines += [""] if extras else []
    for name, value in extras.items():
        details = (
            ", ".join(f"{key} {count:,}" for key, count in list(value.items())[:6]) if isinstance(value, dict) else ""
        )
        lines.append(
            f"{name.replace('_', ' ')}: {details or (value if isinstance(value, str) else format(value, ','))}"
        )
    kinds = {kind: values for kind, values in report["lengths"].items() if kind != "unit"}
    if kinds:
        names = list(next(iter(kinds.values())))
        lines += ["", f"lengths in {report['lengths']['unit']}", " " * 24 + "".join(f"{name:>10}" for name in names)]
        lines += [f"{kind:24}" + "".join(f"{values[name]:>10,}" for name in names) for kind, values in kinds.items()]
    return "\n".join(lines)


def _origin(report: Mapping[str, Any]) -> str:
    commit = f" ({report['commit']})" if report.get("commit") and report["commit"] != report.get("revision") else ""
    return f"{report['source']}" + (f" at {report['revision']}{commit}" if report.get("revision") else "")


def draw(lengths: Lengths, title: str, file: IO[bytes]) -> None:
    """Draw the lengths as histograms side by side, cut off at the 99th percentile, into a PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = {kind: counts for kind, counts in lengths.counts.items() if counts}
    figure, panels = pyplot.subplots(1, len(kinds), figsize=(5 * len(kinds), 3.6), layout="constrained", squeeze=False)
    for axes, (kind, counts) in zip(panels[0], kinds.items(), strict=True):
        end = max(length_at(counts, 0.99), 1)
        shown = {length: times for length, times in counts.items() if length <= end}
        axes.hist(list(shown), bins=min(40, end), weights=list(shown.values()), color=_BLUE)
        median = length_at(counts, 0.5)
        axes.axvline(median, color=_ORANGE, linestyle="--", label=f"median {median:,}")
        axes.set(title=kind.replace("_", " "), xlabel=lengths.unit)
        axes.legend(fontsize=9)
    panels[0][0].set_ylabel("count")
    figure.suptitle(title)
    # Without the software's version in the metadata, the same data gives the same file.
    figure.savefig(file, dpi=110, format="png", metadata={"Software": None})
    pyplot.close(figure)
