"""The rules of harm: what a checkpoint may not have lost, however well it has learned the style.

Figures whose error is known count only where chance does not explain them: benchmarks, and shares of answers. The tests
of one checkpoint are corrected for their number (Holm), so that of the pairs without a difference at most 5 % lose one.
With one benchmark of 300 items a true drop of ten points is found in nine of ten pairs where up to 30 % of the items
change, with eight benchmarks where up to 20 % do.
The others are means that vary little between two samples of one model; their limits are far above that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite

from sdpo.evaluate.drop_tests import holm, paired_p_value, risen_share_p_value
from sdpo.evaluate.evidence import BenchmarkChange, Condition
from sdpo.evaluate.rule import HARM, NOT_MEASURED, Rule, outcome
from sdpo.settings.release import KIND_FACTOR, TOPIC_NOISE, ReleaseSettings

# The shares of pairs without a difference that may lose a benchmark, or a share of answers; 5 % together.
_BENCHMARK_ALARMS, _SHARE_ALARMS = 0.04, 0.01
BENCHMARKS = "benchmarks"
_Z, _ROUNDING = 1.96, 1e-9

Figures = Callable[[Condition], float | None]


@dataclass(frozen=True)
class _Share:
    """A share of the answers that may rise by no more than a setting."""

    name: str
    figure: Figures
    limit: Callable[[ReleaseSettings], float]
    what: str
    of: Callable[[Condition], int | None] = lambda of: None  # the number of answers, if not of all


_SHARES = (
    _Share("leaks", lambda of: of.leak, lambda limits: limits.max_leaks, "answer a follow-up that nobody gave"),
    _Share("refusals", lambda of: of.refusals, lambda limits: limits.max_refusals, "refuse"),
    _Share(
        "language",
        lambda of: of.other_language,
        lambda limits: limits.max_other_language,
        "are in another language",
        lambda of: of.language_read,
    ),
)
# Read where an oracle reads it, and no gap in the evidence elsewhere.
_MALFORMED = _Share("form", lambda of: of.malformed, lambda limits: limits.max_malformed, "are malformed")


def harm_rules(
    changes: Sequence[BenchmarkChange],
    condition: Condition | None,
    baseline: Condition | None,
    answers: int,
    limits: ReleaseSettings,
    alike: float = 1.0,
) -> list[Rule]:
    """Return the rules of harm of one checkpoint; what was not measured is among them.

    `changes` are the checkpoint's benchmarks, `answers` is the number of answers that a condition's shares are of, and
    `alike` how many of them count as one case: those of one conversation do.
    """
    own, other = condition or Condition(), baseline or Condition()
    usable = [change for change in changes if isfinite(change.difference) and isfinite(change.standard_error)]
    pairs = [(share, share.figure(own), share.figure(other)) for share in (*_SHARES, _MALFORMED)]
    measured = [(share, after, before) for share, after, before in pairs if after is not None and before is not None]
    p_values = [paired_p_value(change.items, loss_of(change), change.standard_error) for change in usable]
    certain = holm(p_values, _BENCHMARK_ALARMS)
    rules = [_benchmark(change, sure, limits) for change, sure in zip(usable, certain, strict=True)]
    rules += [_unusable(change) for change in changes if change not in usable]
    if not changes:
        rules.append(not_measured(BENCHMARKS))
    rules += [*_distance(own, limits), *_moved(own, other, limits)]
    counts = [tuple(round((share.of(of) or answers) / alike) for of in (other, own)) for share, _, _ in measured]
    tests = zip(measured, counts, strict=True)
    certain = holm([risen_share_p_value(before, after, *of) for (_, after, before), of in tests], _SHARE_ALARMS)
    shares = zip(measured, certain, strict=True)
    rules += [_share(share, after, before, sure, limits) for (share, after, before), sure in shares]
    names = {share.name for share, _, _ in measured}
    return rules + [not_measured(share.name) for share in _SHARES if share.name not in names]


def loss_of(change: BenchmarkChange) -> float:
    """Return by how much a benchmark got worse; negative where it got better."""
    return -change.difference if change.higher_is_better else change.difference


def _exceeds(value: float, limit: float) -> bool:
    """Return whether a difference of shares is above the limit, by more than the last digits of a float."""
    return value - limit > _ROUNDING


def not_measured(name: str) -> Rule:
    """Return the rule of a figure that is missing: it is neither passed nor failed."""
    return Rule(name, HARM, NOT_MEASURED, f"{name}: not measured")


def _benchmark(change: BenchmarkChange, certain: bool, limits: ReleaseSettings) -> Rule:
    loss, half = loss_of(change), _Z * change.standard_error
    over = _exceeds(loss, limits.max_drop)
    harmed = certain and over
    text = (
        f"{change.task} ({change.metric}) went from {change.baseline:.3f} to {change.value:.3f} on {change.items} items"
    )
    if harmed:
        text += f": worse by more than {limits.max_drop:g}, and chance does not explain it"
    elif over:
        text += ", which chance may explain"
    else:
        text += f": {'no worse' if loss <= 0 else f'not worse by more than {limits.max_drop:g}'}"
    name = f"benchmark {change.task}"
    bounds = change.difference - half, change.difference + half
    threshold = -limits.max_drop if change.higher_is_better else limits.max_drop
    return Rule(name, HARM, outcome(not harmed), text, change.difference, *bounds, threshold=threshold)


def _unusable(change: BenchmarkChange) -> Rule:
    """Return the rule of a benchmark whose figures are not finite: a harm where the baseline's is."""
    if isfinite(change.baseline) and not isfinite(change.value):
        text = (
            f"{change.task} ({change.metric}) went from {change.baseline:.3f} to {change.value} on {change.items} items"
        )
        return Rule(f"benchmark {change.task}", HARM, outcome(False), text, change.difference)
    return Rule(f"benchmark {change.task}", HARM, NOT_MEASURED, f"benchmark {change.task}: its figure is no number")


def _distance(own: Condition, limits: ReleaseSettings) -> list[Rule]:
    """Return the rules of the distance on general prompts: of their mean, and of the kind that moved furthest."""
    if own.distance is None and not own.by_kind:
        return [not_measured("distance")]
    mean = sum(own.by_kind.values()) / len(own.by_kind) if own.distance is None else own.distance
    rules = [
        Rule(
            "distance",
            HARM,
            outcome(mean <= limits.max_distance),
            f"on general prompts it differs from the start by {mean:.3f} nats per token "
            f"(at most {limits.max_distance:g})",
            mean,
            threshold=limits.max_distance,
        )
    ]
    if own.by_kind:
        kind, worst = max(own.by_kind.items(), key=lambda item: item[1])
        limit = KIND_FACTOR * limits.max_distance
        text = f"on prompts of kind {kind} it differs most, by {worst:.3f} nats per token (at most {limit:g})"
        rules.append(Rule("distance by kind", HARM, outcome(worst <= limit), text, worst, threshold=limit))
    return rules


def _moved(own: Condition, other: Condition, limits: ReleaseSettings) -> list[Rule]:
    """Return the rules of the figures that are means: fluency, surprise, topic, diversity and length."""
    return [
        _worse("fluency", other.fluency, own.fluency, -1, limits.max_fluency_loss, "log-probability of a token"),
        _worse("surprise", other.surprise, own.surprise, 1, limits.max_surprise, "surprise of a token"),
        _kept(
            "topic",
            other.topic,
            own.topic,
            limits.min_topic,
            "what a token gains in likelihood by its own prompt",
            TOPIC_NOISE,
        ),
        _kept("diversity", other.diversity, own.diversity, limits.min_diversity, "the share of distinct answers"),
        _length(other.words, own.words, limits),
    ]


def _worse(name: str, before: float | None, after: float | None, sign: int, limit: float, what: str) -> Rule:
    """Return a rule of a figure in nats; `sign` is the direction in which it gets worse."""
    if after is None or before is None:
        return not_measured(name)
    worse = sign * (after - before)
    sentence = f"the {what} of its answers is {after:.3f} nats, of the baseline's {before:.3f}"
    sentence += f" ({'lower' if sign < 0 else 'higher'} by at most {limit:g})"
    return Rule(name, HARM, outcome(worse <= limit), sentence, after - before, threshold=sign * limit)


def _kept(name: str, before: float | None, value: float | None, least: float, what: str, noise: float = 0.0) -> Rule:
    """Return a rule of a figure of which a share must be left; a loss of no more than `noise` passes in any case."""
    if value is None or before is None or before <= 0:
        return not_measured(name)
    share = value / before
    sentence = f"{what} went from {before:.3f} to {value:.3f}; at least {least:g} of it must be left"
    return Rule(name, HARM, outcome(share >= least or before - value <= noise), sentence, share, threshold=least)


def _length(before: float | None, words: float | None, limits: ReleaseSettings) -> Rule:
    if words is None or before is None or before <= 0:
        return not_measured("length")
    factor = words / before
    passed = 1 / limits.max_length_factor <= factor <= limits.max_length_factor
    sentence = (
        f"its answers have {words:.1f} words, the baseline's {before:.1f} (at most {limits.max_length_factor:g} times "
        "more or fewer)"
    )
    return Rule("length", HARM, outcome(passed), sentence, factor, threshold=limits.max_length_factor)


def _share(share: _Share, after: float, before: float, certain: bool, limits: ReleaseSettings) -> Rule:
    limit = share.limit(limits)
    rise = after - before
    sentence = f"{after:.1%} of its answers {share.what}, of the baseline's {before:.1%} (at most {limit:.1%} more)"
    return Rule(share.name, HARM, outcome(not (certain and _exceeds(rise, limit))), sentence, rise, threshold=limit)
