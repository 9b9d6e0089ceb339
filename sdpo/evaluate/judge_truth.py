"""How far the judges can be trusted: each is tried on labelled pairs before its verdicts are used.

Its verdicts on the evaluation's own answers are compared with the rule or oracle of the style, where there is one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdpo import progress
from sdpo.errors import SettingError
from sdpo.evaluate.evidence import JudgeTruth
from sdpo.evaluate.fingerprints import base_of
from sdpo.evaluate.judges import ORACLE, OracleJudge, PairwiseJudge
from sdpo.evaluate.win_rates import BASELINE
from sdpo.runtime.statistics import wilson
from sdpo.settings.training import RULE
from sdpo.tiny import MODEL_DIR
from sdpo.users.labelled import KINDS, LabelledPair

if TYPE_CHECKING:
    from sdpo.evaluate.answers import Answer
    from sdpo.evaluate.prompts import EvaluationPrompt
    from sdpo.runtime.launch import Job
    from sdpo.settings import EvalSettings
    from sdpo.users.judge import VerdictPair
    from sdpo.users.oracle import Oracle

    Verdicts = Mapping[str, Mapping[str, Sequence[VerdictPair | None]]]

_FEW_RULE_PAIRS = 20  # with fewer of the evaluation's own pairs, agreement with the rule is no reason to warn
# What a low figure of a kind means.
_FAULTS = {
    "order": "it often contradicts itself when the order of the answers changes",
    "length": "it often prefers the longer answer",
    "style": "it often misses the style",
    "content": "it often misses that an answer is wrong or empty",
}
_RIGHT = {"first": ("A", "B"), "second": ("B", "A")}  # the right verdicts in both orders


def labelled_pairs(model: str) -> tuple[LabelledPair, ...]:
    """Return the labelled pairs in the language of the model that is evaluated: the tiny world's or English ones."""
    if Path(model).resolve() == MODEL_DIR.resolve():
        from sdpo.tiny import labelled as tiny

        return tiny.labelled_pairs()
    from sdpo.english import labelled as english

    return english.labelled_pairs()


def find_oracle(settings: "EvalSettings", job: "Job") -> "Oracle | None":
    """Return the oracle or rule that reads the evaluated style, None if there is none."""
    try:
        baseline = settings.baseline or ""
        return job.find_oracle(base_of(baseline) or baseline, settings.style, settings.style_file)
    except SettingError:  # the model's world does not have the style
        return None


def any_differ(answers: Mapping[str, Sequence["Answer"]]) -> bool:
    """Return whether a judge is asked at all: not if every answer is the baseline's."""
    return any(
        own.text.strip() != other.text.strip()
        for name in answers
        for own, other in zip(answers[name], answers[BASELINE], strict=True)
    )


def measure(judge: str, pairwise_judge: PairwiseJudge, pairs: Sequence[LabelledPair]) -> JudgeTruth:
    """Return how often the judge is right on the labelled pairs.

    Collective for a judge that is loaded here. A rule gets only pairs that differ in a style that it can read. Raises
    what the judge raises, BudgetReached for one.
    """
    from sdpo.users.judge import Pair

    if isinstance(pairwise_judge, OracleJudge):
        return _truth_of_rule(judge, pairwise_judge, pairs)
    asked = [Pair(pair.persona, pair.prompt, pair.first, pair.second) for pair in pairs]
    with progress.task(f"{judge} on the labelled pairs", len(pairs), "pairs") as under:
        verdict_pairs = pairwise_judge.verdict_pairs(asked, under)
        under.done = len(pairs)
    return truth_of(judge, pairs, verdict_pairs)


def _truth_of_rule(judge: str, oracle_judge: OracleJudge, pairs: Sequence[LabelledPair]) -> JudgeTruth:
    world, read, verdict_pairs = type(oracle_judge.oracle), [], []
    for pair in pairs:
        if pair.kind == "content":
            continue
        try:
            rule = world(pair.style)
        except SettingError:
            continue  # no rule reads this style
        read.append(pair)
        verdict_pairs.append(
            (
                rule.verdict(pair.first, pair.second, pair.prompt),
                rule.verdict(pair.second, pair.first, pair.prompt),
            )
        )
    return truth_of(judge, read, verdict_pairs)


def truth_of(judge: str, pairs: Sequence[LabelledPair], verdict_pairs: Sequence["VerdictPair"]) -> JudgeTruth:
    """Return how often these verdicts on the pairs are right; an undecided or unreadable one is not."""
    right = [_right(verdicts, _RIGHT[pair.better]) for pair, verdicts in zip(pairs, verdict_pairs, strict=True)]
    by_kind = {}
    for kind in KINDS:
        own = [value for pair, value in zip(pairs, right, strict=True) if pair.kind == kind]
        if own:
            by_kind[kind] = round(sum(value == 1 for value in own) / len(own) if kind == "order" else _mean(own), 6)
    low, high = _interval(right)
    return JudgeTruth(judge, len(pairs), round(_mean(right), 6), by_kind, low, high)


def with_rule(
    truths: Mapping[str, JudgeTruth],
    oracle: "Oracle | None",
    prompts: Sequence["EvaluationPrompt"],
    answers: Mapping[str, Sequence["Answer"]],
    verdict_pairs: "Verdicts",
) -> list[JudgeTruth]:
    """Return the judges' values with their agreement with the rule of the style on the evaluation's own answers."""
    if oracle is None:
        return [truths[judge] for judge in verdict_pairs if judge in truths]
    labels = {
        name: [
            oracle.verdict(own.text, other.text, prompt.text)
            for prompt, own, other in zip(prompts, answers[name], answers[BASELINE], strict=True)
        ]
        for name in answers
        if name != BASELINE
    }
    completed = []
    for judge in verdict_pairs:
        if judge not in truths:
            continue
        right = [
            _right(verdicts, ("A", "B") if label == "A" else ("B", "A"))
            for name, by_prompt in verdict_pairs[judge].items()
            for verdicts, label in zip(by_prompt, labels[name], strict=True)
            if verdicts is not None and label != "C"
        ]
        truth = truths[judge]
        if right and judge not in (ORACLE, RULE):  # which are that rule
            low, high = _interval(right)
            agreement = round(_mean(right), 6)
            truth = replace(truth, rule_pairs=len(right), rule_agreement=agreement, rule_low=low, rule_high=high)
        completed.append(truth)
    return completed


def fits(
    oracle: "Oracle | None", prompts: Sequence["EvaluationPrompt"], answers: Mapping[str, Sequence["Answer"]]
) -> dict[str, list[bool]]:
    """Return name of model -> whether each of its answers fits the style; empty if nothing reads the style."""
    if oracle is None:
        return {}
    return {
        name: [oracle.fits(answer.text, prompt.text) for prompt, answer in zip(prompts, own, strict=True)]
        for name, own in answers.items()
    }


def line(truth: JudgeTruth) -> str:
    """Return one line with all that is known of a judge."""
    by_kind = ", ".join(f"{kind} {value:.2f}" for kind, value in truth.by_kind.items())
    text = f"judge {truth.judge} is right on {truth.agreement:.2f} [{truth.low:.2f}, {truth.high:.2f}] of "
    text += f"{truth.pairs} labelled pairs ({by_kind})"
    if truth.rule_agreement is not None:
        text += (
            f"; with the rule of the style in {truth.rule_agreement:.2f} [{truth.rule_low:.2f}, {truth.rule_high:.2f}] "
            f"of {truth.rule_pairs} pairs of this evaluation"
        )
    return text


def warnings(truths: Sequence[JudgeTruth], trusted: float) -> list[str]:
    """Return a warning for each judge that is right on a smaller share than `trusted` of either kind of pairs."""
    messages = []
    for truth in truths:
        if truth.agreement < trusted:
            weakest = min(truth.by_kind, key=lambda kind: truth.by_kind[kind])
            messages.append(
                f"judge {truth.judge} is right on {truth.agreement:.2f} of {truth.pairs} labelled pairs: "
                f"{_FAULTS[weakest]} ({weakest} {truth.by_kind[weakest]:.2f}). Choose another JUDGE_MODEL"
            )
        agreement = truth.rule_agreement
        if agreement is not None and agreement < trusted and truth.rule_pairs >= _FEW_RULE_PAIRS:
            messages.append(
                f"judge {truth.judge} agrees with the rule of the style on {agreement:.2f} of {truth.rule_pairs} pairs "
                "of this evaluation. Add rule to JUDGE_MODEL, and trust that"
            )
    return messages


def _right(verdicts: "VerdictPair", expected: tuple[str, str]) -> float:
    """Return the share of the two verdicts that are as expected."""
    return sum(verdict == label for verdict, label in zip(verdicts, expected, strict=True)) / 2


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _interval(right: Sequence[float]) -> tuple[float, float]:
    low, high = wilson(sum(right), len(right) - sum(right)) or (0.0, 1.0)
    return round(low, 6), round(high, 6)
