"""One training run, from loading the model to the summary: measure answers, train, measure again, report."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import datasets
import torch
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, TrainingArguments, set_seed

from sdpo import settings as settings_module
from sdpo.errors import GuardStopped, LossNotFinite, RunError
from sdpo.method.teacher import FIXED, Teacher
from sdpo.models.policy import load_policy
from sdpo.models.pretrained import silence_libraries
from sdpo.models.tied_head import expect_no_tied_head
from sdpo.runtime.commands import given_to_repeat
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings.inputs import read_template
from sdpo.settings.recipes import learning_rate_advice
from sdpo.text.prompts import Message
from sdpo.train import guard, resume
from sdpo.train.answers import measure_answers, read_completions
from sdpo.train.arguments import training_arguments
from sdpo.train.callbacks import (
    GracefulStop,
    MetricsCallback,
    ProgressCallback,
    RotationCallback,
    TeacherCallback,
)
from sdpo.train.checkpoint_sizes import CheckpointForecast
from sdpo.train.guard import CollapseGuard
from sdpo.train.job import read_rehearsal_prompts
from sdpo.train.publish import finish_model
from sdpo.train.record import BaseTrainer
from sdpo.train.results import answers_file, print_if_never_met, print_results
from sdpo.train.start_model import StartModel
from sdpo.train.teacher_refresh import TeacherRefreshCallback
from sdpo.users.styles import FILE as STYLES
from sdpo.users.styles import as_json, own_styles, personas

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import OfflineSettings, OnlineSettings
    from sdpo.users.oracle import Oracle

_WHEN = {
    "before": "before training",
    "shown": "before training, with the wish shown",
    "after": "after training",
}

Config = TypeVar("Config", bound=TrainingArguments)


class Session(Generic[Config]):
    """Holds the run directory, the model and the trainer of one run.

    A job's session implements `configure`, `build_trainer` and `validation_prompts`, and overrides `facts`,
    `callbacks`, `at_step_start` and `before_saving_now` where it needs them. `Config` is its trainer's configuration.
    """

    settings: "OnlineSettings | OfflineSettings"
    trainer: BaseTrainer

    def __init__(self, settings: "OnlineSettings | OfflineSettings", job: "Job") -> None:
        self.settings, self.job = settings, job
        silence_libraries()
        datasets.disable_progress_bars()
        config = self.configure(training_arguments(settings))  # first: it starts the process group
        self.main = config.process_index == 0
        set_seed(settings.seed)
        self.tokenizer, model = load_policy(settings, config.bf16)  # a model that cannot be used leaves no folder
        is_recipe = settings_module.source(settings, "lr") == settings_module.RECIPE
        if self.main and is_recipe and (advice := learning_rate_advice(settings.lr, model.num_parameters())):
            print(advice, flush=True)
        self.run_dir = RunDirectory(settings.run_directory_path)
        with config.main_process_first(local=False):
            if self.main:
                self._open_run_dir()
        self.oracle = self._oracle()
        expect_no_tied_head(model)
        has_adapter = settings.adapter != "none"
        self.teacher = Teacher(settings.teacher, model, settings.ema_rate, adapter=has_adapter)
        self.start_scorer: Teacher | None = None
        if settings.needs_start_model:
            is_start = settings.teacher == "frozen"
            self.start_scorer = self.teacher if is_start else Teacher("frozen", model, adapter=has_adapter)
        self.trainer = self.build_trainer(config, model)
        self.start = self._start_model()
        self.trainer.remove_callback(PrinterCallback)
        self.stop = GracefulStop(self.trainer)
        for callback in (*self._shared_callbacks(), *self.callbacks()):
            self.trainer.add_callback(callback)

    # Implemented or overridden by each job's session

    def configure(self, shared: dict[str, Any]) -> Config:
        """Return the trainer's configuration; `shared` are the arguments that all training jobs have in common."""
        raise NotImplementedError

    def build_trainer(self, config: Config, model: PreTrainedModel) -> BaseTrainer:
        """Return the trainer of the model."""
        raise NotImplementedError

    def facts(self) -> dict[str, str]:
        """Return the device, and what an evaluation has to know about the run besides its settings; for run.json."""
        return {
            "job": self.job.name,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
            "system_prompt": self.job.system_prompt,
            "prompt_suffix": self.job.prompt_suffix,
        }

    def callbacks(self) -> Sequence[TrainerCallback]:
        """Return further callbacks, called after those that all sessions share."""
        return ()

    def validation_prompts(self) -> list[list[Message]]:
        """Return the EVAL_N prompts to answer before and after training."""
        raise NotImplementedError

    def at_step_start(self) -> AbstractContextManager:
        """Return a context manager that restores the random states from the start of the current step."""
        return nullcontext()

    def before_saving_now(self) -> None:
        """Prepare for a checkpoint in the middle of a step; every process calls it."""

    # Shared by all sessions

    def run(self) -> bool:
        """Measure answers, train and measure again; return False if the run was asked to stop before its end.

        Raises GuardStopped after the final measurement if the guard stopped training, RunError if the loss is not
        finite.
        """
        summary = self.run_dir.read_json("summary.json") or {}
        started = time.monotonic()
        if self.start is not None:
            self._answer_with_start_model(self.start)
        if "before" not in summary and (before := self.measure_answers("before")):
            summary["before"] = before
            if self.settings.style is not None:
                summary["shown"] = self.measure_answers("shown")
                if self.main:
                    print_if_never_met(summary, self.settings)
            self._write_summary(summary)
        checkpoint = self.run_dir.last_checkpoint() if self.settings.resume == "auto" else None
        self.teacher_callback.resume_from = checkpoint
        if checkpoint and self.main:
            resume.warn_if_inexact(self.run_dir, checkpoint, self.trainer.accelerator.num_processes)
        try:
            self.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except LossNotFinite as error:
            raise self._not_finite_error(error) from None
        finally:
            summary["seconds"] = round(summary.get("seconds", 0) + time.monotonic() - started, 1)
            self._write_summary(summary)
        steps = self.trainer.state.global_step
        if self.stop.requested and steps < self.trainer.state.max_steps:
            return False
        stopped, best, is_loaded = self.guard.stopped if self.guard else [], None, True
        if stopped:
            best = summary["best_checkpoint"] = self._best_checkpoint()
            summary["stopped_by_guard"] = {"step": steps, "reasons": stopped}
            is_loaded = best is None or self.trainer.load_best()
        if is_loaded and (after := self.measure_answers("after")):
            summary["after"] = after
        summary |= {"steps": steps, "style": self.settings.style, "teacher": self.settings.teacher, "finished": True}
        self._write_summary(summary)
        if self.main:
            print_results(self.run_dir, summary)
            finish_model(self.settings, self.job.name, self.run_dir, best if stopped else None, bool(stopped))
        if stopped:
            advice = (
                f"The best checkpoint is {best}"
                if best
                else ("None of its checkpoints is good to use: train anew with another RUN_ID and a lower LR")
            )
            raise GuardStopped(
                f"the guard stopped the run after step {steps}: {'; '.join(stopped)}. {advice}; "
                f"{self.run_dir.path / guard.FILE} has its measures."
            )
        return True

    def _answer_with_start_model(self, start: StartModel) -> None:
        """Have the start model answer the prompts on which the guard measures distance, and those of REHEARSAL."""
        policy = self.trainer.accelerator.unwrap_model(self.trainer.model)
        arguments = (policy, self.run_dir, self.main, self.oracle, self.settings.seed)
        weight = self.settings.rehearsal
        with self.trainer.precision_of_training():
            start.answer_general_prompts(*arguments)
            if weight:
                start.answer_rehearsal_prompts(*arguments, prompts=read_rehearsal_prompts(self.settings))
        if weight:
            self.trainer.rehearsal, self.trainer.rehearsal_weight = start.rehearsal_divergence, weight
            if self.main and not start.rehearsal.prompts:
                print(
                    "REHEARSAL: no prompt has an answer that fits the style; no answer is rehearsed. Give prompts of "
                    "your own as REHEARSAL_JSONL.",
                    flush=True,
                )

    def measure_answers(self, when: str) -> dict | None:
        """Return the figures of sampled answers, for the summary; None if EVAL_N is 0. The answers are in a file.

        `when` is before, after or shown: before training, with the wish in the context, which shows what the model can
        be expected to learn.
        """
        settings = self.settings
        if not settings.eval_n:
            return None
        with self.trainer.precision_of_training():
            figures, answers = measure_answers(
                self.trainer,
                self.tokenizer,
                self.validation_prompts(),
                settings,
                settings.max_completion_tokens,
                settings.temperature,
                self.oracle,
                self.start,
                when == "shown",
                f"answers {_WHEN[when]}",
            )
        if self.main:
            self.run_dir.write_rows(answers_file(when), answers)
            print(f"{_WHEN[when]}: {figures['answers']} validation prompts answered", flush=True)
        return figures

    def _best_checkpoint(self) -> str | None:
        best = self.trainer.state.best_model_checkpoint
        return Path(best).name if best else None

    def save_now(self) -> None:
        """Write a checkpoint of the last finished step unless there is one; every process calls it during a step."""
        state = self.trainer.state
        self.before_saving_now()
        last = self.run_dir.last_checkpoint()
        if state.global_step and (last is None or last.name != f"checkpoint-{state.global_step}"):
            self.trainer.interrupted = True
            with self.at_step_start():
                self.trainer._save_checkpoint(self.trainer.model, trial=None)
            self.trainer.callback_handler.on_save(self.trainer.args, state, self.trainer.control)
            self.trainer.interrupted = False

    def _not_finite_error(self, error: LossNotFinite) -> RunError:
        """Write the error's rows to the run directory and return the error to report."""
        name = f"not-finite-{self.trainer.accelerator.process_index}.json"
        self.run_dir.write_json(name, {"step": error.step, "rows": error.rows})
        last = self.run_dir.last_checkpoint()
        return RunError(
            f"{error}: the {len(error.rows)} row(s) are in {self.run_dir.path / name}. "
            + (f"{last.name} is the last complete checkpoint. " if last else "")
            + "Lower LR or remove these rows from the data, and start again with another RUN_ID."
        )

    def _shared_callbacks(self) -> list[TrainerCallback]:
        read: Callable | None = partial(read_completions, oracle=self.oracle) if self.oracle is not None else None
        self.teacher_callback = TeacherCallback(self.trainer, self.teacher)
        self.metrics = MetricsCallback(self.run_dir, self.trainer, self.settings.log_steps, read)
        callbacks: list[TrainerCallback] = [self.teacher_callback, self.metrics]
        callbacks.append(CheckpointForecast(self.run_dir.path, self.trainer, self.teacher))
        if self.settings.teacher == "gated":
            callbacks.append(TeacherRefreshCallback(self.run_dir, self.trainer, self.teacher, lambda: self.metrics.row))
        self.guard: CollapseGuard | None = None
        if self.settings.guard != "off":
            stops = self.settings.guard == "stop"
            row, answers = (lambda: self.metrics.row), (lambda: self.trainer.latest)
            anchored = self.settings.teacher in FIXED
            self.guard = CollapseGuard(self.run_dir, self.trainer, row, answers, stops, anchored, self.start)
            callbacks.append(self.guard)
        return [*callbacks, RotationCallback(self.run_dir, self.trainer), self.stop, ProgressCallback()]

    def _start_model(self) -> StartModel | None:
        """Return the model that the run started from; None if nothing is measured with it."""
        settings = self.settings
        if self.start_scorer is None:
            return None
        wish = personas(settings.style_file).get(settings.style) if settings.style is not None else None
        template = read_template(settings.hindsight_template, settings.hindsight_file)
        return StartModel(self.start_scorer, self.tokenizer, settings.bs, wish, template)

    def _oracle(self) -> "Oracle | None":
        """Return the oracle for the run's style; None if the job has none or it cannot read the model's answers."""
        settings = self.settings
        return self.job.find_oracle(settings.model, settings.style, settings.style_file)

    def _open_run_dir(self) -> None:
        given = settings_module.redacted(self.settings)
        facts = {**self.facts(), "given": given_to_repeat(self.settings)}
        state = self.run_dir.open(given, self.settings.resume == "auto", facts)
        if state == "continued":
            resume.return_to_last_checkpoint(self.run_dir)
        else:
            print(f"run directory: {self.run_dir.path}", flush=True)
        own = own_styles(self.settings.style_file)
        if own and self.run_dir.read_json(STYLES) is None:
            self.run_dir.write_json(STYLES, {name: as_json(style) for name, style in own.items()})

    def _write_summary(self, summary: dict) -> None:
        if self.main:
            self.run_dir.write_json("summary.json", summary)
