"""What a preparation saw, kept and left out, as counts, a table and a picture of lengths."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sdpo.errors import SettingError, one_line

_BLUE, _ORANGE = "#0072b2", "#d55e00"  # told apart without colour vision too
_WAITING = 500  # texts measured at once
_SHARES = (0.5, 0.9, 0.99)


@dataclass
class Tally:
    """How many were seen, kept, and dropped for which reason; `seen` is always the sum of the other two.

    `first` says for a reason where it was met first, if whoever counts knows.
    """

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    @property
    def seen(self) -> int:
        return self.kept + self.dropped.total()

    def drop(self, reason: str, count: int = 1, where: str = "") -> None:
        """Count something left out."""
        self.dropped[reason] += count
        if where:
            self.first.setdefault(reason, where)

    def as_dict(self) -> dict[str, Any]:
        """Return the counts, the most frequent reason first."""
        ordered = sorted(self.dropped.items(), key=lambda item: (-item[1], item[0]))
        counts = {"seen": self.seen, "kept": self.kept, "dropped": dict(ordered)}
        return counts | {"first": self.first} if self.first else counts


class Lengths:
    """The lengths of some kinds of text. Only how often each length occurs is kept, so it stays small."""

    def __init__(self, kinds: Sequence[str], measure: "Measure") -> None:
        self.counts: dict[str, Counter[int]] = {kind: Counter() for kind in kinds}
        self.unit = measure.unit
        self._measure = measure
        self._waiting: list[tuple[str, list[str]]] = []

    def add(self, kind: str, texts: list[str]) -> None:
        """Count the length of one piece of data, which may be made of several texts."""
        self._waiting.append((kind, texts))
        if len(self._waiting) >= _WAITING:
            self.settle()

    def settle(self) -> None:
        """Measure what is still waiting."""
        lengths = iter(self._measure([text for _, texts in self._waiting for text in texts]))
        for kind, texts in self._waiting:
            self.counts[kind][sum(next(lengths) for _ in texts)] += 1
        self._waiting = []

    def as_dict(self) -> dict[str, Any]:
        """Return the figures of each kind of text, in the measure's unit."""
        self.settle()
        return {"unit": self.unit} | {kind: _figures(counts) for kind, counts in self.counts.items() if counts}


def _figures(counts: Mapping[int, int]) -> dict[str, float]:
    number = sum(counts.values())
    ordered = sorted(counts.items())
    found: dict[str, float] = {"count": number, "mean": round(sum(n * times for n, times in ordered) / number, 1)}
    found["shortest"] = ordered[0][0]
    for share in _SHARES:
        found[f"{share:.0%}"] = length_at(counts, share)
    found["longest"] = ordered[-1][0]
    return found


def length_at(counts: Mapping[int, int], share: float) -> int:
    """Return the length that at least this share of the texts do not exceed."""
    wanted, reached = share * sum(counts.values()), 0
    for length, times in sorted(counts.items()):
        reached += times
        if reached >= wanted:
            return length
    raise ValueError("there are no lengths")


@dataclass(frozen=True)
class Measure:
    """How texts are measured: in characters, or in tokens of a model."""

    unit: str
    of: Callable[[list[str]], Iterable[int]]

    def __call__(self, texts: list[str]) -> Iterable[int]:
        return self.of(texts)


def measure_of(model: str | None) -> Measure:
    """Return the measure for a model's tokens, or for characters without one. Raises SettingError without its file."""
    if model is None:
        return Measure("characters", lambda texts: map(len, texts))
    from tokenizers import Tokenizer

    file = Path(model).expanduser() / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(file)) if file.is_file() else Tokenizer.from_pretrained(model)
    except Exception as error:  # it raises nothing more particular
        raise SettingError(
            f"MODEL={model} has no tokenizer.json here or on the hub: {one_line(error, 200)} Name another, or none."
        ) from None

    def tokens(texts: list[str]) -> Iterable[int]:
        return (len(encoding) for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False))

    return Measure(f"tokens of {file.parent.name if file.is_file() else model}", tokens)


# What is shown of it


def table(report: Mapping[str, Any]) -> str:
    """Return the report as text: rows seen, kept and dropped by reason, then lengths."""
    lines = [f"{report['job']}: {_origin(report)}"]
    for name, counts in report["counts"].items():
        lines += ["", f"{name:44} {counts['seen']:>10,}", f"  {'kept':42} {counts['kept']:>10,}"]
        first = {reason: f"  first: {where}" for reason, where in counts.get("first", {}).items()}
        lines += [
            f"  dropped: {reason:33} {count:>10,}{first.get(reason, '')}" for reason, count in counts["dropped"].items()
        ]
    extras = {name: report[name] for name in ("forms", "not_read", "duplicates", "languages") if report.get(name)}
    lines += [""] if extras else []
    for name, value in extras.items():
        words = (
            ", ".join(f"{key} {count:,}" for key, count in list(value.items())[:6]) if isinstance(value, dict) else ""
        )
        lines.append(f"{name.replace('_', ' ')}: {words or format(value, ',')}")
    kinds = {kind: figures for kind, figures in report["lengths"].items() if kind != "unit"}
    if kinds:
        names = list(next(iter(kinds.values())))
        lines += ["", f"lengths in {report['lengths']['unit']}", " " * 24 + "".join(f"{name:>10}" for name in names)]
        lines += [f"{kind:24}" + "".join(f"{figures[name]:>10,}" for name in names) for kind, figures in kinds.items()]
    return "\n".join(lines)


def _origin(report: Mapping[str, Any]) -> str:
    commit = f" ({report['commit']})" if report.get("commit") and report["commit"] != report.get("revision") else ""
    return f"{report['source']}" + (f" at {report['revision']}{commit}" if report.get("revision") else "")


def draw(lengths: Lengths, title: str, file: IO[bytes]) -> None:
    """Draw the lengths as histograms, side by side, up to the longest of 99 in 100."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = {kind: counts for kind, counts in lengths.counts.items() if counts}
    figure, panels = pyplot.subplots(1, len(kinds), figsize=(5 * len(kinds), 3.6), layout="constrained", squeeze=False)
    for axes, (kind, counts) in zip(panels[0], kinds.items(), strict=True):
        end = max(length_at(counts, 0.99), 1)
        shown = {length: times for length, times in counts.items() if length <= end}
        axes.hist(list(shown), bins=min(40, end), weights=list(shown.values()), color=_BLUE)
        middle = length_at(counts, 0.5)
        axes.axvline(middle, color=_ORANGE, linestyle="--", label=f"half are up to {middle:,}")
        axes.set(title=kind.replace("_", " "), xlabel=lengths.unit)
        axes.legend(fontsize=9)
    panels[0][0].set_ylabel("how many")
    figure.suptitle(title)
    # Without the software's name: the same data makes the same file.
    figure.savefig(file, dpi=110, format="png", metadata={"Software": None})
    pyplot.close(figure)
