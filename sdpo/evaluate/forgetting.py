"""Sequential forgetting: the taste of every run, measured after every run.

Of runs that were trained one after another, the last checkpoint of each answers the same prompts, and so does the model
that the first one started from. A rule or an oracle that reads a taste says how many of the answers fit it. A taste
that nothing reads has the win rate against the start model by a judge, if JUDGE_MODEL names one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from sdpo.evaluate import win_rates
from sdpo.evaluate.answers import Answer
from sdpo.evaluate.condition import Subject, Taste, general_kinds
from sdpo.evaluate.condition_session import NO_GENERAL_PROMPTS, meter_of, template_of
from sdpo.evaluate.evidence import Condition
from sdpo.evaluate.forgetting_matrix import Cell, Matrix, adherence_cell, win_rate_cell
from sdpo.evaluate.forgetting_report import FILES, Forgetting, write
from sdpo.evaluate.models import EvaluatedModel
from sdpo.evaluate.prompts import EvaluationPrompt
from sdpo.evaluate.sequence import START, Column, columns, judge_of_tastes, stages
from sdpo.evaluate.session import EvalSession

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import EvalSettings


class ForgettingSession(EvalSession):
    """One evaluation of several runs; every process of the job has one."""

    files = FILES

    def __init__(self, settings: "EvalSettings", job: "Job") -> None:
        super().__init__(settings, job)
        self.base = self.baseline  # what the first run started from, not the last one
        self.stages = stages(settings)
        self.tastes, self.notes = columns(settings, job, self.stages)

    def run(self) -> int:
        """Answer, read and report; return the exit code 0."""
        used, _ = self._prompts()
        models = self._models()
        weights = self.weights_of(models)
        messages = [prompt.messages for prompt in used]
        # Adapters first: the start model stays loaded for those on it.
        order = sorted(models, key=lambda name: (name != START, models[name].base != self.base))
        answered = {name: self.source.of(models[name], weights[name], messages) for name in order}
        answers = {name: answered[name] for name in models}
        conditions = self._conditions(used, {name: models[name] for name in order}, weights, answers)
        self.model_cache.clear()
        cells = self._cells(used, answers)
        if not self.state.is_main_process:
            return 0
        measured = [column for column in self.tastes if (START, column.name) in cells]
        learned = {column.name: column.learned_after for column in measured}
        matrix = Matrix(list(models), [column.name for column in measured], cells, learned)
        conditions = {name: conditions[name] for name in models if name in conditions}
        write(self.folder, self.settings, Forgetting(self.stages, matrix, conditions, self.notes, len(used), weights))
        return 0

    def _models(self) -> dict[str, EvaluatedModel]:
        """Return the models by name in the order of training: the start model, then the one after each run."""
        models = {START: EvaluatedModel(START, self.base)}
        for stage in self.stages:
            adapter = (stage.checkpoint / "adapter_config.json").exists()
            source = str(stage.checkpoint)
            models[stage.name] = EvaluatedModel(stage.name, source, stage.base if adapter else None, "RUN_DIR")
        return models

    def _conditions(
        self,
        used: Sequence[EvaluationPrompt],
        models: Mapping[str, EvaluatedModel],
        weights: Mapping[str, str],
        answers: Mapping[str, Sequence[Answer]],
    ) -> dict[str, Condition]:
        """Return name -> condition, each model's with the wish of its own run in view; empty with CONDITION=0."""
        if not self.settings.condition:
            return {}
        tastes = {stage.name: Taste(stage.run.persona) for stage in self.stages}
        subjects = {
            name: Subject(model, weights[name], answers[name], tastes.get(name, Taste()))
            for name, model in models.items()
        }
        meter, notes = meter_of(self, EvaluatedModel(START, self.base))
        self.notes += notes
        oracles = [column.oracle for column in self.tastes]
        kinds = general_kinds(next((oracle for oracle in oracles if oracle is not None), None))
        conditions = meter.conditions(subjects, used, kinds, template_of(self.trained_run), oracles)
        if not kinds:
            self.notes.append(NO_GENERAL_PROMPTS)
        elif all(condition.distance is None for condition in conditions.values()):
            self.notes.append("no general prompt has an answer that fits every taste: the distance is not measured")
        return conditions

    def _cells(
        self, used: Sequence[EvaluationPrompt], answers: Mapping[str, Sequence[Answer]]
    ) -> dict[tuple[str, str], Cell]:
        """Return (model, taste) -> cell for every taste that can be measured; the others are noted. Collective."""
        judge = judge_of_tastes(self.settings)
        cells: dict[tuple[str, str], Cell] = {}
        for column in self.tastes:
            if column.oracle is not None:
                for name, texts in answers.items():
                    pairs = zip(used, texts, strict=True)
                    fits = [column.oracle.fits(answer.text, prompt.text) for prompt, answer in pairs]
                    cells[name, column.name] = adherence_cell(fits)
            elif judge is None:
                self.notes.append(
                    f"no rule reads the taste {column.name}: it has no column. Name a judge in JUDGE_MODEL to have its "
                    "win rates against the start model"
                )
            else:
                cells |= {(name, column.name): cell for name, cell in self._judged(judge, column, used, answers)}
        return cells

    def _judged(
        self,
        judge: str,
        column: Column,
        used: Sequence[EvaluationPrompt],
        answers: Mapping[str, Sequence[Answer]],
    ) -> list[tuple[str, Cell]]:
        """Return each model's win rate against the start model for a taste; nothing on other processes."""
        prompts = [replace(prompt, persona=column.persona) for prompt in used]
        against = {win_rates.BASELINE: list(answers[START])}
        against |= {name: list(texts) for name, texts in answers.items() if name != START}
        verdicts = self.verdicts_by_judge([judge], prompts, against).get(judge, {})
        if not verdicts:
            return []
        # The start model against itself has no winner.
        return [(START, win_rate_cell([])), *((name, win_rate_cell(rows)) for name, rows in verdicts.items())]
