"""What an evaluation knows of a checkpoint beside its win rate, as plain values that the verdict reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

BASELINE = "baseline"  # the name of the model that the checkpoints are compared with


@dataclass(frozen=True)
class BenchmarkChange:
    """One benchmark: a checkpoint against the baseline, on the same items.

    `value` and `baseline` are means over the items, `difference` is the first less the second, and `standard_error`
    is that of the mean of the paired differences.
    """

    checkpoint: int
    task: str
    metric: str
    items: int
    baseline: float
    value: float
    difference: float
    standard_error: float
    higher_is_better: bool = True


@dataclass(frozen=True)
class Condition:
    """The condition of one model, measured on its answers and by the model that the run started from.

    The figures of `sdpo.models.answer_quality` are in nats, shares are between 0 and 1, and a figure that cannot be
    measured is None. `distance` is KL(start ‖ model) per token on the start's own answers to general prompts,
    `by_kind` the same for each kind of prompt (kinds with few answers are one together), and `log_probability` that of
    a token of these answers. `diversity` is the share of distinct answers among several samples to a prompt,
    `distinct_phrases` that of distinct sequences of three words in them. `fits` says of each prompt whether the answer
    fits the style, where a rule or an oracle reads it. `distance` and `log_probability` are over the prompts on which
    training measures them too, whose answers no style should change; the other kinds are in `by_kind` alone.
    `malformed` is the share of answers that the rule or oracle calls malformed, `other_language` that of the
    `language_read` answers whose language can be recognised.
    """

    fluency: float | None = None
    surprise: float | None = None
    topic: float | None = None
    leak: float | None = None
    distance: float | None = None
    by_kind: Mapping[str, float] = field(default_factory=dict)
    log_probability: float | None = None
    diversity: float | None = None
    words: float | None = None
    refusals: float | None = None
    other_language: float | None = None
    language_read: int | None = None
    fits: Sequence[bool] | None = None
    distinct_phrases: float | None = None
    malformed: float | None = None


@dataclass(frozen=True)
class JudgeTruth:
    """How often a judge was right on labelled pairs, by kind of pair (`order`, `length`, `style`, `content`).

    Every pair is judged in both orders. `agreement` is the share of all verdicts that are right, as are the values of
    `by_kind`, but for `order`: there it is the share of pairs on which both verdicts are right. The interval counts
    pairs, because the two verdicts on one are not independent. A rule is asked about style alone: it has no `content`.

    `rule_agreement` is the share of its verdicts on the evaluation's own answers that are those of the style's rule or
    oracle, over the `rule_pairs` pairs of which the rule prefers one answer; None where nothing reads the style.
    """

    judge: str
    pairs: int
    agreement: float
    by_kind: Mapping[str, float]
    low: float  # of the 95 % interval of `agreement`
    high: float
    rule_pairs: int = 0
    rule_agreement: float | None = None
    rule_low: float | None = None
    rule_high: float | None = None


def finite(value: Any) -> Any:
    """Return a value for JSON, which has no numbers that are not finite: None in their place, however deep."""
    if isinstance(value, Mapping):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
