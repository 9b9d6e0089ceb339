"""The data of one evaluation: answers, verdicts and results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sdpo.evaluate.answers import Answer
from sdpo.evaluate.evidence import BenchmarkChange, Condition, JudgeTruth
from sdpo.evaluate.prompts import EvaluationPrompt
from sdpo.evaluate.release_rules import Decision
from sdpo.evaluate.win_rates import WinRate
from sdpo.users.judge import VerdictPair


@dataclass(frozen=True)
class Comparison:
    """Everything an evaluation reports.

    `weights`, `generated` and `answers` map the model's name (`baseline`, `checkpoint-N`) to its fingerprint, to the
    number of answers that this evaluation generated, and to its answers in the order of `prompts`.
    `verdict_pairs` maps judge -> checkpoint -> the verdicts on each prompt's two answers in both orders, None where
    the two answers are identical and no judge was asked. `too_long` counts the prompts skipped for their length.
    `benchmark_scores` is what `sdpo.evaluate.benchmarks` reports beside the changes.
    `judge_truth` has the judges that were tried on labelled pairs, `judge_warnings` what to say of the weak ones.
    `fits` maps the model's name to whether each answer fits the style, as a rule or an oracle reads it, and is empty
    where none does.
    `condition` maps the model's name to its condition, and `condition_notes` say what of it was not measured.
    `release` is the verdict over all of it.
    """

    prompts: Sequence[EvaluationPrompt]
    too_long: int
    persona: str
    weights: Mapping[str, str]
    generated: Mapping[str, int]
    answers: Mapping[str, Sequence[Answer]]
    verdict_pairs: Mapping[str, Mapping[str, Sequence[VerdictPair | None]]]
    rows: Sequence[WinRate]
    agreement: Sequence[dict]
    warnings: Sequence[str]
    benchmarks: Sequence[BenchmarkChange] = ()
    benchmark_scores: Mapping[str, Any] = field(default_factory=dict)
    judge_truth: Sequence[JudgeTruth] = ()
    judge_warnings: Sequence[str] = ()
    fits: Mapping[str, Sequence[bool]] = field(default_factory=dict)
    condition: Mapping[str, Condition] = field(default_factory=dict)
    condition_notes: Sequence[str] = ()
    release: Decision | None = None
