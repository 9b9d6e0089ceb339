"""A rule of a release and what it found, as one plain value."""

from dataclasses import dataclass
from typing import Final, Literal

GAIN: Final = "gain"
HARM: Final = "harm"
WARNING: Final = "warning"
PASSED: Final = "passed"
FAILED: Final = "failed"
NOT_MEASURED: Final = "not measured"


@dataclass(frozen=True)
class Rule:
    """One rule, applied to one checkpoint.

    A failed rule of kind `gain` or `harm` keeps the old model, one of kind `warning` only warns. `figure` is what was
    measured, `low` and `high` its interval where there is one, `threshold` what it is compared with, and `sentence`
    says the same in plain English.
    """

    name: str
    kind: Literal["gain", "harm", "warning"]
    outcome: Literal["passed", "failed", "not measured"]
    sentence: str
    figure: float | None = None
    low: float | None = None
    high: float | None = None
    threshold: float | None = None

    @property
    def failed(self) -> bool:
        """Whether the rule was applied and not met."""
        return self.outcome == FAILED


def outcome(passed: bool) -> Literal["passed", "failed"]:
    """Return the outcome of a rule that was measured."""
    return PASSED if passed else FAILED
