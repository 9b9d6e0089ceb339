"""Curves of a run's measures as inline SVG, thinned out as they are read: a long run costs a page no more."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from sdpo.report.folder import Folder, mapping, number
from sdpo.report.html import joined, shown

POINTS = 400  # the most points of a curve
_WIDTH, _HEIGHT = 360.0, 170.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 8.0, 10.0, 22.0

# The measures of metrics.jsonl in the order of the page, by what they mean.
MEASURES = {
    "satisfied": "share of users satisfied",
    "signal_size": "mean |signal| per token, nats",
    "adherence": "share of answers that fit the style",
    "validity": "share of answers that are valid",
    "completion_tokens": "tokens per answer",
    "entropy": "entropy per token, nats",
    "loss": "loss",
    "repetition": "share of repeated trigrams",
    "truncated": "share of answers that were cut off",
    "rehearsal": "divergence from the start's answers",
    "learning_rate": "learning rate",
}
GUARD = {
    "score": "guard: 1 is its warning, 2 its stop",
    "lost": "guard: share of the start's tokens lost",
    "surprise": "guard: surprise, nats per token",
    "distance": "guard: distance from the start, nats",
}
LIMITS = {"score": (1.0, 2.0)}
_ALWAYS = ("satisfied", "signal_size", "score")


@dataclass
class Curve:
    """A measure over the steps, as at most POINTS buckets of (first step, last step, count, sum, lowest, highest)."""

    buckets: list[list[float]] = field(default_factory=list)
    width: int = 1
    steps: int = 0

    def add(self, step: float, value: float) -> None:
        """Add a value; when there are too many buckets, each two become one."""
        if self.buckets and self.buckets[-1][2] < self.width:
            last = self.buckets[-1]
            last[1:] = [step, last[2] + 1, last[3] + value, min(last[4], value), max(last[5], value)]
        else:
            self.buckets.append([step, step, 1, value, value, value])
        if len(self.buckets) > POINTS:
            pairs = zip(self.buckets[::2], self.buckets[1::2], strict=False)
            odd = self.buckets[-1:] if len(self.buckets) % 2 else []
            self.buckets = [
                [a[0], b[1], a[2] + b[2], a[3] + b[3], min(a[4], b[4]), max(a[5], b[5])] for a, b in pairs
            ] + odd
            self.width *= 2

    @property
    def points(self) -> list[tuple[float, float, float, float]]:
        """The buckets as (middle step, mean, lowest, highest), at most POINTS."""
        return [((first + last) / 2, total / count, low, high) for first, last, count, total, low, high in self.buckets]


@dataclass
class Metrics:
    """All that the report takes from metrics.jsonl and guard.jsonl, read once from start to end."""

    curves: dict[str, Curve] = field(default_factory=dict)
    rows: int = 0
    last: Mapping[str, object] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    tokens: float = 0.0
    peak_memory_gb: float | None = None
    lost_rows: float = 0.0


def read_metrics(folder: Folder) -> Metrics:
    """Return the curves and sums of a training run."""
    found, interactions = Metrics(), 0.0
    for row in folder.rows("metrics.jsonl"):
        found.rows += 1
        found.last = row
        _add(found.curves, MEASURES, row, row, "")
        for part, value in mapping(row.get("seconds")).items():
            found.seconds[part] = found.seconds.get(part, 0.0) + (number(value) or 0.0)
        now = number(row.get("interactions")) or interactions
        found.tokens += max(0.0, now - interactions) * (number(row.get("completion_tokens")) or 0.0)
        interactions = now
        found.lost_rows += sum(number(row.get(name)) or 0.0 for name in ("empty", "too_long"))
        memory = number(row.get("peak_memory_gb"))
        found.peak_memory_gb = memory if memory is not None else found.peak_memory_gb
    for row in folder.rows("guard.jsonl"):
        _add(found.curves, GUARD, row, {**mapping(row.get("measures")), "score": row.get("score")}, "guard ")
    for row in folder.rows("validation.jsonl"):
        _add(found.curves, MEASURES, row, row, "validation ")
    return found


def _add(
    curves: dict[str, Curve],
    names: Iterable[str],
    row: Mapping[str, object],
    values: Mapping[str, object],
    prefix: str,
) -> None:
    step = number(row.get("step"))
    if step is None:
        return
    for name in names:
        value = number(values.get(name))
        if value is not None:
            curves.setdefault(prefix + name, Curve()).add(step, value)


def charts(runs: Mapping[str, Metrics]) -> Markup:
    """Return a chart per measure that any of the runs has; several runs share a chart. Empty without a curve."""
    drawn = []
    for names, prefix in ((MEASURES, ""), (GUARD, "guard ")):
        for name, label in names.items():
            series = {run: found.curves.get(prefix + name) for run, found in runs.items()}
            if not prefix:
                series |= {f"{run}, validation": found.curves.get(f"validation {name}") for run, found in runs.items()}
            present = {run: curve for run, curve in series.items() if curve is not None}
            # A measure that never changes, such as a constant learning rate, needs no chart.
            if present and (name in _ALWAYS or any(low < high for low, high in map(_range, present.values()))):
                drawn.append(_figure(label, present, LIMITS.get(name, ())))
    if not drawn:
        return Markup("")
    return Markup("<div class='charts'>{}</div>").format(joined(drawn))


def _range(curve: Curve) -> tuple[float, float]:
    return min(bucket[4] for bucket in curve.buckets), max(bucket[5] for bucket in curve.buckets)


def _figure(label: str, series: Mapping[str, Curve], limits: Sequence[float]) -> Markup:
    points = {name: curve.points for name, curve in series.items()}
    low = min(point[2] for line in points.values() for point in line)
    high = max(point[3] for line in points.values() for point in line)
    limits = [limit for limit in limits if limit <= max(high, 1.0) * 1.5]
    low, high = min([low, *limits]), max([high, *limits])
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    first = min(line[0][0] for line in points.values())
    last = max(line[-1][0] for line in points.values())
    scale = _Scale(first, max(last, first + 1), low, high)
    several = len(series) > 1
    parts = [scale.axes(), *(scale.limit(limit) for limit in limits)]
    parts += [scale.curve(line, number % 6) for number, line in enumerate(points.values())]
    words = [_described(name if several else "", line) for name, line in points.items()]
    caption = joined(
        Markup("<span class='key k{}'>{}</span>").format(index % 6, text) for index, text in enumerate(words)
    )
    return Markup(
        "<figure><figcaption><b>{}</b> {}</figcaption>"
        "<svg viewBox='0 0 {:.0f} {:.0f}' role='img' aria-label='{}'>{}</svg></figure>"
    ).format(label, caption, _WIDTH, _HEIGHT, f"{label}: {'; '.join(words)}", joined(parts))


def _described(name: str, line: Sequence[tuple[float, float, float, float]]) -> str:
    """Return in words what a curve shows: the means of its first and last tenth."""
    tenth = max(1, len(line) // 10)
    begin = sum(point[1] for point in line[:tenth]) / tenth
    end = sum(point[1] for point in line[-tenth:]) / tenth
    text = shown(end) if len(line) == 1 else f"{shown(begin)} → {shown(end)}"
    return f"{name}: {text}" if name else text


@dataclass(frozen=True)
class _Scale:
    first: float
    last: float
    low: float
    high: float

    def x(self, step: float) -> float:
        return _LEFT + (step - self.first) / (self.last - self.first) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _TOP + (self.high - value) / (self.high - self.low) * (_HEIGHT - _TOP - _BOTTOM)

    def axes(self) -> Markup:
        """Return the grid, with the values at the left and the steps below."""
        parts = []
        for value in (self.low, (self.low + self.high) / 2, self.high):
            y = self.y(value)
            parts.append(
                Markup(
                    "<path class='grid' d='M{:.1f} {:.1f}H{:.1f}'/><text x='{:.1f}' y='{:.1f}' class='end'>{}</text>"
                ).format(_LEFT, y, _WIDTH - _RIGHT, _LEFT - 4, y + 3.5, shown(value))
            )
        for step, anchor in ((self.first, "begin"), ((self.first + self.last) / 2, "middle"), (self.last, "end")):
            parts.append(
                Markup("<text x='{:.1f}' y='{:.1f}' class='{}'>{:,.0f}</text>").format(
                    self.x(step), _HEIGHT - 6, anchor, step
                )
            )
        return joined(parts)

    def limit(self, value: float) -> Markup:
        return Markup("<path class='limit' d='M{:.1f} {:.1f}H{:.1f}'/>").format(_LEFT, self.y(value), _WIDTH - _RIGHT)

    def curve(self, line: Sequence[tuple[float, float, float, float]], number: int) -> Markup:
        """Return a curve of means on the band between the lowest and the highest value of each bucket."""
        mean = " ".join(f"{self.x(step):.1f},{self.y(value):.1f}" for step, value, _, _ in line)
        parts = []
        if any(high > low for _, _, low, high in line):
            edge = [f"{self.x(step):.1f},{self.y(high):.1f}" for step, _, _, high in line]
            edge += [f"{self.x(step):.1f},{self.y(low):.1f}" for step, _, low, _ in reversed(line)]
            parts.append(Markup("<polygon class='band k{}' points='{}'/>").format(number, " ".join(edge)))
        if len(line) == 1:
            x, y = mean.split(",")
            return Markup("<circle class='dot k{}' cx='{}' cy='{}' r='3'/>").format(number, x, y)
        parts.append(Markup("<polyline class='line k{}' points='{}'/>").format(number, mean))
        return joined(parts)
