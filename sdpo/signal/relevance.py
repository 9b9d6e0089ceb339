"""Whether the signal of relevant follow-ups is above that of unrelated ones, in numbers and in words.

A model that does not read the follow-up gives both the same signal: what the template's words do to any answer.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sdpo.runtime.statistics import Interval, ratio_interval
from sdpo.text.prompts import HINDSIGHT_TEMPLATES

CLEARLY_ABOVE, ABOVE, NOT_ABOVE, TOO_FEW = "clearly above", "above", "not shown to be above", "too few cases"
# The lower end of the ratio's interval from which the relevant signal is clearly above.
CLEAR_RATIO = 1.8
LEAST_CASES = 4  # a bootstrap over fewer cases says nothing


@dataclass(frozen=True)
class Relevance:
    """The signal of the relevant follow-ups beside that of the unrelated ones.

    unrelated, relevant: the mean |signal| per token over all tokens of all cases, in nats.
    ratio: relevant over unrelated; None if the unrelated follow-ups make no signal.
    interval: the 95 % interval of the ratio over resamples of cases; None without a ratio and for too few cases.
    verdict: CLEARLY_ABOVE, ABOVE, NOT_ABOVE or TOO_FEW.
    """

    cases: int
    unrelated: float
    relevant: float
    ratio: float | None
    interval: Interval | None
    verdict: str

    @property
    def sentence(self) -> str:
        """The verdict in words, with its numbers."""
        if self.ratio is None:
            relevant = (
                f"the relevant ones make {self.relevant:.4f} nats" if self.relevant else "neither do the relevant ones"
            )
            return f"The unrelated follow-ups make no signal at all, so there is no ratio; {relevant}."
        times = f"{self.ratio:.2f} times as large"
        if self.interval is None:
            cases = "1 case is" if self.cases == 1 else f"{self.cases} cases are"
            return (
                f"{cases} too few to say whether the relevant follow-ups' signal is above the unrelated ones': at "
                f"least {LEAST_CASES} are needed for an interval. Here it is {times}."
            )
        low, high = self.interval
        return (
            f"The relevant follow-ups' signal is {self.verdict} the unrelated ones': {times} "
            f"(95 % interval {low:.2f} to {high:.2f} over {self.cases} cases; {self._rule(low)})."
        )

    @staticmethod
    def _rule(low: float) -> str:
        if low >= CLEAR_RATIO:
            return f"clearly above from a lower end of {CLEAR_RATIO:g} on"
        return (
            f"clearly above would be a lower end of {CLEAR_RATIO:g}" if low > 1 else "above would be a lower end over 1"
        )

    def advice(self, template: str) -> str | None:
        """Return what to try next, None if nothing has to change; `template` is the HINDSIGHT_TEMPLATE in use."""
        if self.verdict == CLEARLY_ABOVE:
            return None
        if self.verdict == TOO_FEW:
            return "Try more cases: raise N_CASES, or name a CASES_JSON with more of them."
        others = ", ".join(name for name in HINDSIGHT_TEMPLATES if name != template)
        return (
            f"Try another HINDSIGHT_TEMPLATE ({others}) or a larger MODEL; in training, NULL_CONTRAST=1 to subtract "
            "what any follow-up does, or LEARN_FROM=complaints."
        )

    def as_dict(self, template: str) -> dict[str, Any]:
        """Return the numbers, the verdict and the words as plain values."""
        return {**asdict(self), "sentence": self.sentence, "advice": self.advice(template)}


def compare_signals(unrelated: Sequence[Sequence[float]], relevant: Sequence[Sequence[float]]) -> Relevance:
    """Return how the relevant follow-ups' signal compares; each argument has the signal of each token of each case.

    Both have the same tokens. Raises ValueError without cases.
    """
    if not unrelated:
        raise ValueError("a comparison needs at least one case")
    tokens = sum(map(len, unrelated))
    below, above = ([sum(map(abs, case)) for case in cases] for cases in (unrelated, relevant))
    sizes = sum(below) / tokens, sum(above) / tokens
    if not sum(below):
        return Relevance(len(below), *sizes, None, None, CLEARLY_ABOVE if sum(above) else NOT_ABOVE)
    # Sums per case: the ratio of their means over the cases is that of the means per token over all tokens.
    ratio, interval = ratio_interval(above, below, range(len(below)))
    if len(below) < LEAST_CASES:
        return Relevance(len(below), *sizes, ratio, None, TOO_FEW)
    low = interval[0]
    verdict = CLEARLY_ABOVE if low >= CLEAR_RATIO else ABOVE if low > 1 else NOT_ABOVE
    return Relevance(len(below), *sizes, ratio, interval, verdict)
