"""The rules of a gain: whether a checkpoint is better at what it was trained for, and by whose word.

What reads the style without error decides, and a judge only where nothing does. Of several judges the most trusted one
decides: one that is a rule or an oracle, then the one that was right on most labelled pairs, then those of which this
was not measured, in the order in which they were named. The others are asked for an objection: a win of the baseline.
"""

from collections.abc import Hashable, Mapping, Sequence
from math import ceil, floor
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

from sdpo.evaluate.drop_tests import sign_p_value
from sdpo.evaluate.evidence import Condition, JudgeTruth
from sdpo.evaluate.judges import ORACLE
from sdpo.evaluate.rule import FAILED, GAIN, NOT_MEASURED, PASSED, WARNING, Rule, outcome
from sdpo.runtime.statistics import design_effect, wilson
from sdpo.settings.release import MANY_CONTRADICTORY, MANY_UNFINISHED, ReleaseSettings
from sdpo.settings.training import RULE as RULE_JUDGE

if TYPE_CHECKING:
    from sdpo.evaluate.win_rates import WinRate

GAIN_RULE, TRUTH, WORSE = "gain", "judge's truth", "worse"
EVEN = 0.5  # the win rate without a difference
_EXACT = (ORACLE, RULE_JUDGE)
_BY_CHANCE = ", which chance may explain"


class Fits(NamedTuple):
    """Whether the answers of a checkpoint and of the baseline to one prompt fit the style, and its conversation.

    The prompts of one conversation are no cases of their own: in an interval they count as one.
    """

    own: bool
    baseline: bool
    conversation: Hashable


def gain_rules(
    rows: Sequence["WinRate"],
    read: Sequence[Fits] | None,
    truths: Mapping[str, JudgeTruth],
    checkpoints: int,
    limits: ReleaseSettings,
) -> list[Rule]:
    """Return the rules of one checkpoint's gain, and the warnings about what it rests on.

    `rows` are the checkpoint's, one per judge, `read` is from `fits_of`; `checkpoints` is the number of them that are
    compared: the best of many without a gain would win by luck, so each interval is wider the more there are
    (Bonferroni). Where cases are few the exact sign test has to agree.
    """
    level = 0.025 / max(1, checkpoints)
    z = NormalDist().inv_cdf(1 - level)
    judged = by_trust(rows, truths)
    fits = _adherence(read, z, level) if read else None
    if fits is not None:
        deciding, rules = None, [fits]
    elif judged:
        deciding, rules = judged[0], [_win(judged[0], z, level)]
    else:
        return [Rule(GAIN_RULE, GAIN, NOT_MEASURED, "no gain: no judge compared this checkpoint with the baseline")]
    if deciding is not None and deciding.judge not in _EXACT:
        rules += [_length(deciding), _truth(deciding.judge, truths.get(deciding.judge), limits)]
    # A judge that does not decide may still object, and its truth says whether the order of trust is right.
    others = [row for row in judged if row is not deciding]
    if deciding is not None and deciding.judge not in _EXACT:
        rules += [_unknown_truth(row.judge) for row in others if row.judge not in truths]
    rules += [_objection(row, z) for row in others if row.judge not in _EXACT and row.wins + row.losses]
    return rules + _reading(judged)


def by_trust(rows: Sequence["WinRate"], truths: Mapping[str, JudgeTruth]) -> list["WinRate"]:
    """Return the rows of one checkpoint with the most trusted judge first."""

    def rank(row: "WinRate") -> tuple[int, float]:
        if row.judge in _EXACT:
            return 0, 0.0
        truth = truths.get(row.judge)
        return (2, 0.0) if truth is None else (1, -truth.agreement)

    return sorted(rows, key=rank)


def fits_of(condition: Condition | None, baseline: Condition | None, conversations: Sequence[str]) -> list[Fits] | None:
    """Return of each prompt whether either answer fits the style; None where nothing read it.

    `conversations` has the conversation of each prompt; it is empty if each is of its own.
    """
    if condition is None or baseline is None or condition.fits is None or baseline.fits is None:
        return None
    groups = conversations or range(len(condition.fits))
    return [Fits(*one) for one in zip(condition.fits, baseline.fits, groups, strict=True)]


def _adherence(read: Sequence[Fits], z: float, level: float) -> Rule:
    """Return the rule of the paired gain in adherence."""
    changes = [one for one in read if one.own != one.baseline]
    gained = sum(one.own for one in changes)
    lost = len(changes) - gained
    gain, changed = (gained - lost) / len(read), len(changes) / len(read)
    shares = [sum(side) / len(read) for side in ([one.own for one in read], [one.baseline for one in read])]
    text = f"{shares[0]:.1%} of its answers fit the style, of the baseline's {shares[1]:.1%}"
    alike = design_effect([one.conversation for one in changes])
    interval = wilson(gained / alike, lost / alike, z)
    if interval is None:
        text += ", on the same prompts" if shares[0] else ": the model may be unable to meet it"
        return Rule(GAIN_RULE, GAIN, FAILED, f"no gain: {text}", gain, threshold=0.0)
    # Of the answers that changed, the interval of the share that changed for the better.
    low, high = (changed * (2 * bound - 1) for bound in interval)
    text += f", {100 * gain:+.1f} points (from {100 * low:+.1f} to {100 * high:+.1f})"
    passed = low > 0 and not _chance(gained / alike, lost / alike, level)
    found = "" if passed else f"{WORSE}: " if high < 0 else "no gain that is certain: "
    text += _BY_CHANCE if low > 0 and not passed else ""
    return Rule(GAIN_RULE, GAIN, outcome(passed), found + text, gain, low, high, 0.0)


def _chance(better: float, worse: float, level: float) -> bool:
    """Return whether chance explains that so many cases are better, by the exact test, rounded against them.

    Of few cases Wilson's interval alone is too sure: it takes four of four for a gain, which chance gives once in 16.
    """
    return sign_p_value(floor(better), ceil(worse)) > level


def _win(row: "WinRate", z: float, level: float) -> Rule:
    """Return the rule of the win rate by the deciding judge."""
    interval = row.wilson(z=z)
    if interval is None:
        text = f"no gain: {row.judge} named no winner in {row.prompts} prompts"
        return Rule(GAIN_RULE, GAIN, FAILED, text, threshold=EVEN)
    rate, wide = row.wins / (row.wins + row.losses), interval[0] <= EVEN
    passed = not wide and not _chance(row.wins / row.design_effect, row.losses / row.design_effect, level)
    text = f"win rate {rate:.3f} by {row.judge} (from {interval[0]:.3f} to {interval[1]:.3f})"
    text += "" if passed or wide else _BY_CHANCE
    return Rule(GAIN_RULE, GAIN, outcome(passed), text if passed else f"no gain: {text}", rate, *interval, EVEN)


def _length(row: "WinRate") -> Rule:
    """Return the rule of length, for a gain that rests on a judge.

    Judges are known to like length. Where longer answers win, and at equal length there is not even a tendency, nothing
    of the gain is left: no release. Where a tendency is left, or where shorter answers win, which no judge is known to
    like for itself, it may be the style that asks for that length: a warning.
    """
    rate, longer = row.controlled_rate, (row.length or 0.0) > (row.baseline_length or 0.0)
    if not row.length_explains:
        text = "the length of the answers does not explain the win"
        return Rule("length of the winner", WARNING, PASSED, text, rate, threshold=EVEN)
    shown = "unknown" if rate is None else f"{rate:.3f}"
    text = f"length alone explains the win: at equal length the win rate is {shown}"
    if longer and rate is not None and rate <= EVEN:
        text += ". If the style asks for longer answers, let a rule judge it (JUDGE_MODEL=rule)"
        return Rule("length of the winner", GAIN, FAILED, text, rate, threshold=EVEN)
    text += ". Fine only if the style asks for that length"
    return Rule("length of the winner", WARNING, FAILED, text, rate, threshold=EVEN)


def _truth(judge: str, truth: JudgeTruth | None, limits: ReleaseSettings) -> Rule:
    """Return the rule of the deciding judge's truth.

    A judge that is no better than a coin shows no gain. One that is often wrong still does, though a smaller one:
    wrong verdicts pull the win rate towards one half, unless they are wrong for a reason that the checkpoint shares.
    """
    if truth is None:
        return _unknown_truth(judge)
    bounds = truth.agreement, truth.low, truth.high
    text = f"{judge} was right on {truth.agreement:.1%} of {truth.pairs} labelled pairs"
    if truth.low <= EVEN:
        text += f" (from {truth.low:.1%}): no better than a coin, so the gain rests on nothing"
        return Rule(TRUTH, GAIN, FAILED, text, *bounds, threshold=limits.min_judge_truth)
    passed = truth.agreement >= limits.min_judge_truth
    text += "" if passed else f", fewer than {limits.min_judge_truth:.0%}"
    return Rule(TRUTH, WARNING, outcome(passed), text, *bounds, threshold=limits.min_judge_truth)


def _unknown_truth(judge: str) -> Rule:
    text = f"truth of the judge {judge}: not measured"
    return Rule(TRUTH, WARNING, NOT_MEASURED, text)


def _objection(row: "WinRate", z: float) -> Rule:
    """Return a warning where a judge that does not decide prefers the baseline."""
    low, high = row.wilson(z=z) or (0.0, 1.0)
    rate = row.wins / (row.wins + row.losses)
    text = f"{row.judge} {'prefers the baseline' if high < EVEN else 'does not object'}: win rate {rate:.3f}"
    return Rule(f"objection of {row.judge}", WARNING, outcome(high >= EVEN), text, rate, low, high, EVEN)


def _reading(judged: Sequence["WinRate"]) -> list[Rule]:
    """Return the warnings about how the answers were compared: by position, or unfinished."""
    rules = []
    for row in judged:
        if row.judge not in _EXACT and row.contradictory is not None:
            share = row.contradictory
            text = f"{row.judge} chose by position in {share:.0%} of the pairs (at most {MANY_CONTRADICTORY:.0%})"
            passed = outcome(share <= MANY_CONTRADICTORY)
            rules.append(Rule(f"position ({row.judge})", WARNING, passed, text, share, threshold=MANY_CONTRADICTORY))
    if judged:
        rules.append(_unfinished(judged[0]))
    return rules


def _unfinished(row: "WinRate") -> Rule:
    """Return the warning about truncated answers, of either side: they are compared with whole ones."""
    name = "unfinished answers"
    if row.unfinished is None or row.baseline_unfinished is None:
        return Rule(name, WARNING, NOT_MEASURED, f"{name}: not measured")
    text = f"{row.unfinished:.0%} of its answers and {row.baseline_unfinished:.0%} of the baseline's were truncated"
    text += f" (at most {MANY_UNFINISHED:.0%})"
    most = max(row.unfinished, row.baseline_unfinished)
    return Rule(name, WARNING, outcome(most <= MANY_UNFINISHED), text, most, threshold=MANY_UNFINISHED)
