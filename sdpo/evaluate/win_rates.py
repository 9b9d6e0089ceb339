"""Win rates from the verdicts: one row per checkpoint and judge, the agreement of the judges, and warnings."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from sdpo.evaluate.evidence import BASELINE
from sdpo.runtime import statistics
from sdpo.settings.release import MANY_CONTRADICTORY, MANY_UNFINISHED
from sdpo.users.judge import VerdictPair, outcome

if TYPE_CHECKING:
    from sdpo.evaluate.answers import Answer

_SIGNS = {"first": 1, "second": -1, "tie": 0}


@dataclass(frozen=True)
class WinRate:
    """A checkpoint against the baseline according to one judge; undefined numbers are None.

    `coverage` is the share of prompts with a winner. `ties` are all other prompts, including the `same` ones with
    identical answers (no judge was asked) and those with an `unreadable` verdict in either order.
    `contradictory` is the share of the judged pairs in which the judge chose the same position in both orders.
    Lengths are in characters; `unfinished` is the share of truncated answers. `design_effect` is how many prompts
    with a winner count as one in standard error and intervals: those of one conversation do.
    """

    checkpoint: int
    judge: str
    prompts: int = 0
    wins: int = 0
    losses: int = 0
    ties: int = 0
    same: int = 0
    unreadable: int = 0
    coverage: float | None = None
    win_rate: float | None = None
    standard_error: float | None = None
    wilson_low: float | None = None
    wilson_high: float | None = None
    bootstrap_low: float | None = None
    bootstrap_high: float | None = None
    controlled_rate: float | None = None
    controlled_low: float | None = None
    controlled_high: float | None = None
    length_p_value: float | None = None
    length_explains: bool = False
    length: float | None = None
    length_low: float | None = None
    length_high: float | None = None
    baseline_length: float | None = None
    unfinished: float | None = None
    baseline_unfinished: float | None = None
    contradictory: float | None = None
    design_effect: float = 1.0

    def wilson(self, **named: float) -> statistics.Interval | None:
        """Return Wilson's interval of the win rate, in which the prompts of one conversation count as one."""
        return statistics.wilson(self.wins / self.design_effect, self.losses / self.design_effect, **named)


def table_rows(
    steps: Iterable[int],
    answers: Mapping[str, Sequence["Answer"]],
    verdict_pairs: Mapping[str, Mapping[str, Sequence[VerdictPair | None]]],
    conversations: Sequence[str],
    seed: int,
) -> list[WinRate]:
    """Return the rows by judge and step. `conversations` has the conversation of each prompt."""
    counts_RN = statistics.resampled(conversations, seed=seed)
    rows: list[WinRate] = []
    for judge, by_name in verdict_pairs.items():
        for step in steps:
            name = f"checkpoint-{step}"
            rows.append(_row(step, judge, answers[name], answers[BASELINE], by_name[name], conversations, counts_RN))
    return rows


def _row(
    step: int,
    judge: str,
    own: Sequence["Answer"],
    other: Sequence["Answer"],
    verdict_pairs: Sequence[VerdictPair | None],
    conversations: Sequence[str],
    counts_RN: np.ndarray,
) -> WinRate:
    outcomes = [_SIGNS[outcome(verdict_pair)] if verdict_pair else 0 for verdict_pair in verdict_pairs]
    wins, losses = outcomes.count(1), outcomes.count(-1)
    alike = statistics.design_effect([one for one, won in zip(conversations, outcomes, strict=True) if won])
    rate, standard_error = statistics.win_rate(wins / alike, losses / alike) or (None, None)
    wilson = statistics.wilson(wins / alike, losses / alike)
    wilson_low, wilson_high = _bounds(wilson)
    bootstrap_low, bootstrap_high = _bounds(statistics.bootstrap(outcomes, counts_RN))
    lengths, others = ([len(answer.text) for answer in side] for side in (own, other))
    control = statistics.length_controlled(outcomes, [a - b for a, b in zip(lengths, others, strict=True)], counts_RN)
    controlled_low, controlled_high = _bounds(control.interval if control else None)
    length, length_interval = statistics.mean_interval(lengths) or (None, None)
    length_low, length_high = _bounds(length_interval)
    judged = [verdict_pair for verdict_pair in verdict_pairs if verdict_pair]
    return WinRate(
        checkpoint=step,
        judge=judge,
        prompts=len(own),
        wins=wins,
        losses=losses,
        ties=outcomes.count(0),
        same=len(verdict_pairs) - len(judged),
        unreadable=sum(None in verdict_pair for verdict_pair in judged),
        coverage=_round((wins + losses) / len(own)),
        win_rate=_round(rate),
        standard_error=_round(standard_error),
        wilson_low=wilson_low,
        wilson_high=wilson_high,
        bootstrap_low=bootstrap_low,
        bootstrap_high=bootstrap_high,
        controlled_rate=_round(control.rate if control else None),
        controlled_low=controlled_low,
        controlled_high=controlled_high,
        length_p_value=_round(control.p_value if control else None),
        length_explains=statistics.length_explains(wilson, control),
        length=_round(length),
        length_low=length_low,
        length_high=length_high,
        baseline_length=_round(sum(others) / len(others)),
        unfinished=_unfinished(own),
        baseline_unfinished=_unfinished(other),
        contradictory=_round(sum(verdict_pair in (("A", "A"), ("B", "B")) for verdict_pair in judged) / len(judged))
        if judged
        else None,
        design_effect=alike,
    )


def agreement(verdict_pairs: Mapping[str, Mapping[str, Sequence[VerdictPair | None]]]) -> list[dict]:
    """Return, for each two judges, the share of judged pairs with the same outcome and Cohen's κ of the outcomes.

    Pairs of which either could not be read are left out. Either number is None if it is undefined.
    """
    rows = []
    for one, other in combinations(verdict_pairs, 2):
        labels = [
            (outcome(first), outcome(second))
            for name in verdict_pairs[one]
            for first, second in zip(verdict_pairs[one][name], verdict_pairs[other][name], strict=True)
            if first and second and None not in (*first, *second)
        ]
        firsts, seconds = [pair[0] for pair in labels], [pair[1] for pair in labels]
        same = sum(first == second for first, second in labels)
        rows.append(
            {
                "judges": [one, other],
                "pairs": len(labels),
                "agreement": _round(same / len(labels)) if labels else None,
                "kappa": _round(statistics.kappa(firsts, seconds)),
            }
        )
    return rows


def warnings(rows: Sequence[WinRate]) -> list[str]:
    """Return warnings about rows whose win rates need care in reading; each kind that concerns all rows once."""
    messages = [*_nothing_changed(rows), *_length_explains(rows)]
    for row in rows:
        name = f"checkpoint-{row.checkpoint} by {row.judge}"
        if row.contradictory is not None and row.contradictory > MANY_CONTRADICTORY:
            messages.append(
                f"{name}: in {row.contradictory:.0%} of the pairs the judge chose by position, not by answer"
            )
        if row.judge == rows[0].judge and max(row.unfinished or 0, row.baseline_unfinished or 0) > MANY_UNFINISHED:
            messages.append(
                f"checkpoint-{row.checkpoint}: {row.unfinished:.0%} of its answers and {row.baseline_unfinished:.0%} "
                "of the baseline's were truncated. Raise MAX_COMPLETION_TOKENS"
            )
    return messages


def _nothing_changed(rows: Sequence[WinRate]) -> list[str]:
    """Return a warning if all of an evaluation has no win and no loss; missing verdicts say nothing."""
    judged = [row for row in rows if row.unreadable <= row.prompts / 2]
    if not judged or any(row.wins or row.losses for row in rows):
        return []
    check = "Check LR, the steps taken and the signal"
    most = max(judged, key=lambda row: row.prompts - row.same)
    if most.same == most.prompts:
        return [f"every answer is the same as the baseline's: training changed nothing. {check}"]
    return [
        f"no answer is judged better or worse than the baseline's, though checkpoint-{most.checkpoint} changed "
        f"{most.prompts - most.same} of {most.prompts}. {check}; if none fits the style, the model may be unable to "
        "meet it"
    ]


def _length_explains(rows: Sequence[WinRate]) -> list[str]:
    """Return one warning that names all wins that length alone explains; empty if there are none."""
    explained = [row for row in rows if row.length_explains]
    by_judge = {row.judge: [other for other in explained if other.judge == row.judge] for row in explained}
    cases = [
        f"{', '.join(f'checkpoint-{row.checkpoint} ({row.controlled_rate:.2f})' for row in own)} by {judge}"
        for judge, own in by_judge.items()
    ]
    if not cases:
        return []
    return [
        f"length alone explains the win of {'; '.join(cases)} (in parentheses the win rate at equal length). Fine only "
        "if the style asks for that length"
    ]


def _unfinished(answers: Sequence["Answer"]) -> float | None:
    ends = [answer.finished for answer in answers]
    return None if None in ends else _round(ends.count(False) / len(ends))


def _round(value: float | None) -> float | None:
    return None if value is None else round(float(value), 6)


def _bounds(interval: statistics.Interval | None) -> tuple[float | None, float | None]:
    low, high = interval or (None, None)
    return _round(low), _round(high)
