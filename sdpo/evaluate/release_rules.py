"""The verdict of an evaluation: promote a checkpoint, promote it with a warning, or keep the model that is there.

Pure functions of plain values. A checkpoint is promoted if it has a gain and no rule of harm failed. It is promoted
with a warning if something makes the gain doubtful, or if something of harm was not measured: what nobody looked at
never counts as passed. Everything else keeps the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from sdpo.evaluate.evidence import BASELINE, BenchmarkChange, Condition, JudgeTruth
from sdpo.evaluate.gain_rules import GAIN_RULE, TRUTH, WORSE, fits_of, gain_rules
from sdpo.evaluate.harm_rules import harm_rules
from sdpo.evaluate.rule import FAILED, GAIN, HARM, NOT_MEASURED, PASSED, WARNING, Rule, outcome
from sdpo.runtime.statistics import design_effect
from sdpo.settings.release import ReleaseSettings

if TYPE_CHECKING:
    from sdpo.evaluate.win_rates import WinRate

PROMOTE: Final = "promote"
PROMOTE_WITH_WARNING: Final = "promote with a warning"
KEEP: Final = "keep"
EVIDENCE = "evidence of harm"  # the rule of what was not measured
# What the tables of rules say of the names that do not explain themselves.
MEANING = (
    f"{EVIDENCE}: whether every figure that shows harm was measured; one that was not is a warning",
    "diversity: how many of several answers to one prompt are distinct, as a multiple of the baseline's share",
)
Verdict = Literal["promote", "promote with a warning", "keep"]


@dataclass(frozen=True)
class Evidence:
    """All that the verdict reads; everything but the rows may be missing.

    `conditions` are by name of the model, `truths` by name of the judge; `overlap` is the number of prompts that the
    run was trained on, and `conversations` has the conversation of each prompt: empty if each is of its own.
    """

    rows: Sequence["WinRate"]
    benchmarks: Sequence[BenchmarkChange] = ()
    conditions: Mapping[str, Condition] | None = None
    truths: Mapping[str, JudgeTruth] | None = None
    overlap: int | None = 0
    conversations: Sequence[str] = ()


@dataclass(frozen=True)
class Release:
    """The verdict on one checkpoint, with every rule that was applied."""

    checkpoint: int
    verdict: Verdict
    rules: tuple[Rule, ...]

    @property
    def promotes(self) -> bool:
        """Whether the checkpoint may take the old model's place, with or without a warning."""
        return self.verdict != KEEP

    @property
    def reasons(self) -> list[str]:
        """What keeps the old model, else what is to be warned of, in sentences; empty for a plain promotion."""
        return [rule.sentence for rule in self._decisive]

    @property
    def named_reasons(self) -> list[str]:
        """The names of the rules that `reasons` are about, and what was not measured."""
        return [_name_of_reason(rule) for rule in self._decisive]

    @property
    def _decisive(self) -> list[Rule]:
        kinds = (HARM, GAIN) if self.verdict == KEEP else (WARNING,)
        return [rule for kind in kinds for rule in self.rules if rule.kind == kind and _blocks(rule)]

    @property
    def gain(self) -> Rule:
        """The rule of the gain."""
        return next(rule for rule in self.rules if rule.name == GAIN_RULE)


@dataclass(frozen=True)
class Decision:
    """The verdict of an evaluation: the checkpoint to promote, None to keep the old model, and every one compared."""

    releases: tuple[Release, ...]
    chosen: Release | None

    @property
    def verdict(self) -> Verdict:
        """The verdict of the evaluation."""
        return KEEP if self.chosen is None else self.chosen.verdict

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        if self.chosen is not None:
            because = "; ".join(self.chosen.named_reasons)
            return f"{self.chosen.verdict}: checkpoint-{self.chosen.checkpoint}" + (f" ({because})" if because else "")
        if not self.releases:
            return "keep: no checkpoint was evaluated"
        alike: dict[str, list[int]] = {}
        for release in self.releases:
            alike.setdefault(", ".join(release.named_reasons), []).append(release.checkpoint)
        parts = [f"{_names(steps)}: {reasons}" for reasons, steps in alike.items()]
        return f"keep the model that is there ({'; '.join(parts)})"


def decide(evidence: Evidence, limits: ReleaseSettings) -> Decision:
    """Return the verdict on each checkpoint and on the evaluation.

    Of the checkpoints that may be promoted those without a warning come first, then the one with the higher lower
    bound of its gain, then the earlier one, which has moved less.
    """
    steps = list(dict.fromkeys(row.checkpoint for row in evidence.rows))
    releases = tuple(_release(step, len(steps), evidence, limits) for step in steps)
    promoted = [release for release in releases if release.promotes]
    best = min(promoted, key=lambda of: (of.verdict != PROMOTE, -(of.gain.low or 0.0), of.checkpoint), default=None)
    return Decision(releases, best)


def _release(step: int, checkpoints: int, evidence: Evidence, limits: ReleaseSettings) -> Release:
    conditions, truths = evidence.conditions or {}, evidence.truths or {}
    own, baseline = conditions.get(f"checkpoint-{step}"), conditions.get(BASELINE)
    rows = [row for row in evidence.rows if row.checkpoint == step]
    answers = max((row.prompts for row in rows), default=0)
    changes = [change for change in evidence.benchmarks if change.checkpoint == step]
    harm = harm_rules(changes, own, baseline, answers, limits, design_effect(evidence.conversations))
    fits = fits_of(own, baseline, evidence.conversations)
    rules = [*gain_rules(rows, fits, truths, checkpoints, limits), *harm, _evidence(harm)]
    rules.append(_overlap(evidence.overlap, answers))
    return Release(step, _verdict(rules), tuple(rules))


def _verdict(rules: Sequence[Rule]) -> Verdict:
    if any(rule.kind in (GAIN, HARM) and _blocks(rule) for rule in rules):
        return KEEP
    return PROMOTE_WITH_WARNING if any(rule.kind == WARNING and _blocks(rule) for rule in rules) else PROMOTE


def _blocks(rule: Rule) -> bool:
    """Return whether a rule speaks against a promotion, or for a warning. A missing harm does not: see `_evidence`."""
    return rule.failed or (rule.outcome == NOT_MEASURED and rule.kind != HARM)


def _names(steps: Sequence[int]) -> str:
    return f"checkpoint-{steps[0]}" if len(steps) == 1 else f"checkpoints {', '.join(map(str, steps))}"


def _name_of_reason(rule: Rule) -> str:
    if rule.name == GAIN_RULE:
        return WORSE if rule.sentence.startswith(WORSE) else "no gain"
    return rule.sentence if rule.name in (EVIDENCE, TRUTH) or rule.outcome == NOT_MEASURED else rule.name


def _evidence(harm: Sequence[Rule]) -> Rule:
    """Return the warning of what was not measured of harm."""
    missing = [rule.name for rule in harm if rule.outcome == NOT_MEASURED]
    if not missing:
        return Rule(EVIDENCE, WARNING, PASSED, "every figure of harm was measured")
    if len(missing) == len(harm):
        text = "nothing of harm was measured: no benchmarks (BENCHMARKS), and nothing of the condition of the answers"
        return Rule(EVIDENCE, WARNING, FAILED, text)
    return Rule(EVIDENCE, WARNING, FAILED, f"not measured: {', '.join(missing)}")


def _overlap(overlap: int | None, answers: int) -> Rule:
    if overlap is None:
        return Rule("training overlap", WARNING, FAILED, "not known: the run's training files are not where they were")
    text = f"{overlap} of the {answers} prompts were trained on"
    return Rule("training overlap", WARNING, outcome(overlap == 0), text, float(overlap), threshold=0.0)
