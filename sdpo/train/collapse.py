"""The guard's decision: how far each measure of a run has moved from where it began, and what that means.

A policy that learns a style changes a few choices: which word begins the answer, whether there is an emoji. One that
collapses changes everywhere. The guard's main measure distinguishes the two without a second model: the share of
tokens in the initial policy's own answers that have become improbable. The other measures come from each step's
answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

OK, WARN, STOP = 0, 1, 2

FROM_START = ("lost", "kl", "distance")  # measured as differences, on the same answers each time: need no smoothing
BASELINE = 3  # first steps, whose mean is a measure's baseline
SMOOTHING = 0.5  # weight of the previous value in the exponential moving average
PATIENCE = 2  # consecutive steps beyond a limit before the guard warns or stops
# With this share of satisfied users for this many steps, nothing is left to learn.
SATISFIED, SETTLED = 0.95, 20


@dataclass(frozen=True)
class Limit:
    """How far a measure may move from its baseline: by `warn` and `stop`, as a difference or, with `ratio`, a factor.

    A rise counts; with `falling` a fall does, with `both_directions` (of a ratio) either.
    """

    description: str
    warn: float
    stop: float
    ratio: bool = False
    both_directions: bool = False
    falling: bool = False

    def distance(self, value: float, start: float) -> float:
        """Return the value's distance from the baseline `start`: 1.0 at the warning, 2.0 at the stop."""
        if self.ratio:
            moved = max(value, 1e-6) / max(start, 1e-6)
            moved = max(moved, 1 / moved) if self.both_directions else 1 / moved if self.falling else moved
            begin = 1.0
        else:
            moved, begin = (start - value if self.falling else value - start), 0.0
        if moved <= self.warn:
            return max(0.0, (moved - begin) / (self.warn - begin))
        return 1.0 + min(1.0, (moved - self.warn) / (self.stop - self.warn))


# The last three can take any value in a run that learns well, above all with a frozen teacher: they only warn.
NEVER = 1e9
LIMITS = {
    "lost": Limit("of the initial answers' tokens have become improbable", 0.10, 0.16),
    "surprise": Limit("nats per token less likely than the start model's own answers", 0.2, 0.35),
    "distance": Limit("nats per token from the start model on general prompts", 0.15, 0.3),
    "repetition": Limit("of the answers' trigrams are repetitions", 0.15, 0.30),
    "entropy": Limit("nats of entropy per token", 2.5, 4.0, ratio=True),
    "length": Limit("tokens per answer", 5.0, 12.0, ratio=True, both_directions=True),
    "drift": Limit("nats per token of drift since users became satisfied", 0.04, 0.06),
    "kl": Limit("nats per token from the initial policy", 3.0, NEVER),
    "signal_size": Limit("nats of signal per token", 4.0, NEVER, ratio=True),
    "satisfied": Limit("of the users satisfied", 0.25, NEVER, falling=True),
}


@dataclass
class CollapseDetector:
    """The guard's decision, without a trainer: call `observe` with each step's measures.

    `score` is then the largest distance of a measure from its baseline (1 warns, 2 stops), `level` OK, WARN or STOP,
    and `reasons` describes the measures beyond their limits. `anchored` is whether the teacher is fixed: a policy that
    still changes then moves towards it, which is no drift.
    """

    anchored: bool = False
    starts: dict[str, list[float]] = field(default_factory=dict)
    smooth: dict[str, float] = field(default_factory=dict)
    distances: dict[str, float] = field(default_factory=dict)
    best_satisfied: float = 0.0
    satisfied_steps: int = 0
    settled_at: float | None = None
    score: float = 0.0
    level: int = OK
    reasons: list[str] = field(default_factory=list)
    _steps_beyond: list[int] = field(default_factory=lambda: [0, 0])

    def observe(self, values: dict[str, float]) -> int:
        """Add a step's measures and return the level. Any of them may be missing: its last distance then stays."""
        for name, value in values.items():
            self._take(name, value)
        # A policy that learns to be brief makes the tokens of its long answers improbable. Answers that fit the style
        # already say better what was lost: where they are measured and unharmed, the initial ones do not count.
        if self.distances.get("distance", 1.0) < 1.0:
            self.distances.pop("lost", None)
        self._watch_drift(values.get("kl"))
        self.score = max(self.distances.values(), default=0.0)
        for index, limit in enumerate((1.0, 2.0)):
            self._steps_beyond[index] = self._steps_beyond[index] + 1 if self.score >= limit else 0
        to_warn, to_stop = (steps >= PATIENCE for steps in self._steps_beyond)
        self.level = STOP if to_stop else WARN if to_warn else OK
        beyond = (name for name, distance in self.distances.items() if distance >= 1)
        worst = sorted(beyond, key=self.distances.__getitem__, reverse=True)
        self.reasons = [f"{self.smooth[name]:.3g} {LIMITS[name].description}" for name in worst]
        return self.level

    def _take(self, name: str, value: float) -> None:
        """Update the distance of one measure from its baseline."""
        if name in FROM_START:
            self.smooth[name], start = value, 0.0
        elif name == "surprise":  # 0 for the start model itself
            self.smooth[name] = SMOOTHING * self.smooth.get(name, 0.0) + (1 - SMOOTHING) * value
            start = 0.0
        else:
            first_values = self.starts.setdefault(name, [])
            if len(first_values) < BASELINE:
                first_values.append(value)
            start = fmean(first_values)
            self.smooth[name] = SMOOTHING * self.smooth.get(name, value) + (1 - SMOOTHING) * value
        if name == "satisfied":
            self.best_satisfied = start = max(self.best_satisfied, self.smooth[name])
        self.distances[name] = LIMITS[name].distance(self.smooth[name], start)

    def _watch_drift(self, kl: float | None) -> None:
        """Measure how far the policy still moves after users have been satisfied for SETTLED steps."""
        if self.anchored:
            return
        satisfied = self.smooth.get("satisfied", 0.0) >= SATISFIED
        self.satisfied_steps = self.satisfied_steps + 1 if satisfied else 0
        if self.satisfied_steps < SETTLED:
            self.settled_at = None
            self.distances.pop("drift", None)
        elif kl is not None:
            self.settled_at = kl if self.settled_at is None else min(self.settled_at, kl)
            self.smooth["drift"] = kl - self.settled_at
            self.distances["drift"] = LIMITS["drift"].distance(self.smooth["drift"], 0.0)

    @property
    def within_limits(self) -> bool:
        """Whether no measure is beyond its warning, confirmed or not."""
        return self.score < 1 and self.level == OK

    @property
    def is_healthy(self) -> bool:
        """Whether no measure is near its warning, so that a checkpoint saved now is a good one."""
        return self.score < 0.75 and self.level == OK


def repeated_share(ids: Sequence[int], length: int = 3) -> float:
    """Return the share of an answer's n-grams (n = `length`) that repeat an earlier one; 0 for a shorter answer."""
    ngrams = [tuple(ids[start : start + length]) for start in range(len(ids) - length + 1)]
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0
