"""What the audit measures with: sampled interactions and other follow-ups to them, the same for every template."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sdpo.method.loss import Contexts
from sdpo.method.objective import Objective
from sdpo.signal.annotator import Annotator
from sdpo.signal.loaded_model import LoadedModel
from sdpo.signal.verdict import THRESHOLDS
from sdpo.text.hindsight import HindsightTemplate
from sdpo.text.prompts import FOLLOW_UP_KINDS, NULL_FOLLOW_UP
from sdpo.text.records import Interaction


@dataclass
class Sample:
    """The interactions to audit with, and the follow-ups that replace the true ones; the same for every template."""

    rows: list[Interaction]
    shuffled: list[str]
    unrelated: list[str]
    left_out: dict[str, int]

    @property
    def follow_ups(self) -> dict[str, list[str]]:
        """The follow-ups to show in hindsight, by name; `template` has empty ones, to measure the template alone."""
        return {
            "true": [row.user_response for row in self.rows],
            "shuffled": self.shuffled,
            "unrelated": self.unrelated,
            "template": [""] * len(self.rows),
        }

    @property
    def groups(self) -> list[str]:
        """The conversation id of each row."""
        return [row.conversation_id for row in self.rows]


def draw_sample(rows: Sequence[Interaction], unrelated: Sequence[str], seed: int, left_out: dict[str, int]) -> Sample:
    """Return the sample; each row gets a follow-up of another conversation (`shuffled`) and an unrelated one."""
    rng = random.Random(seed)
    shuffled = []
    for row in rows:
        others = [
            other.user_response
            for other in rows
            if other.conversation_id != row.conversation_id and other.user_response != row.user_response
        ]
        shuffled.append(rng.choice(others) if others else rng.choice(unrelated))
    return Sample(list(rows), shuffled, [rng.choice(unrelated) for _ in rows], left_out)


@dataclass(frozen=True)
class Target:
    """What training aims at: with `null_contrast` the contrast with this follow-up, else the model with hindsight."""

    objective: Objective = field(default_factory=Objective)
    null_follow_up: str = NULL_FOLLOW_UP

    def answer(
        self, subject: LoadedModel, rows: Sequence[Interaction], template: HindsightTemplate, *options: Any
    ) -> list[tuple[str, bool]]:
        """Return an answer (text, finished) to each row, sampled from the target; options as in LoadedModel.answer."""
        shown = [subject.context(row.prompt, row.user_response, template) for row in rows]
        if not self.objective.null_contrast:
            return subject.answer(shown, *options)
        contexts = [
            Contexts(subject.context(row.prompt), hindsight, subject.context(row.prompt, self.null_follow_up, template))
            for row, hindsight in zip(rows, shown, strict=True)
        ]
        return subject.answer_from_target(contexts, self.objective, *options)


@dataclass
class PreparedAudit:
    """What a model's metrics need that does not depend on the template; computed once per model."""

    subject: LoadedModel
    sample: Sample
    kinds: list[str]
    completions: list[list[int]]
    bare: list[list[float]]
    informative_rows: list[int]
    plain_answers: list[tuple[str, bool]]


def prepare(
    subject: LoadedModel, sample: Sample, annotator: Annotator, length: int, temperature: float, seed: int
) -> PreparedAudit:
    """Label the follow-ups, score the completions without hindsight, and sample answers without hindsight.

    `length` is the maximum length of a sampled answer, in tokens.
    """
    completions = [subject.completion(row.completion, row.finished) for row in sample.rows]
    contexts = [subject.context(row.prompt) for row in sample.rows]
    kinds = annotator.kinds(sample.rows, subject)
    bare = subject.logps(contexts, completions, "scoring without hindsight")
    chosen = informative_rows(kinds, sample.groups)
    answers = subject.answer([contexts[row] for row in chosen], length, temperature, seed, "answers without hindsight")
    return PreparedAudit(subject, sample, kinds, completions, bare, chosen, answers)


def informative_rows(kinds: Sequence[str], groups: Sequence[str]) -> list[int]:
    """Return the indices of rows whose follow-up should change the answer.

    These are the complaints; if they are of too few conversations, also thanks; if still of too few, all rows. The rows
    of one conversation, which is their group, are correlated: an interval over few conversations would be too narrow.
    """
    for wanted in (("complaint",), ("complaint", "thanks"), FOLLOW_UP_KINDS):
        rows = [row for row, kind in enumerate(kinds) if kind in wanted]
        if len({groups[row] for row in rows}) >= THRESHOLDS.rows:
            return rows
    return list(range(len(kinds)))
