"""One training run from loaded model to summary, whatever the job: measure, train, measure, report."""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from sdpo import settings as settings_module
from sdpo.errors import GuardStopped, LossNotFinite, RunError
from sdpo.method.objective import Objective
from sdpo.method.teacher import FIXED, Teacher
from sdpo.models.policy import load_policy, write_merged_model
from sdpo.models.pretrained import silence_libraries
from sdpo.runtime.run_directory import COMPLETE, RunDirectory
from sdpo.text.prompts import Message
from sdpo.train import guard
from sdpo.train.answers import measure_answers, read_completions
from sdpo.train.callbacks import VALIDATION_FILE, GracefulStop, MetricsCallback, TeacherCallback
from sdpo.train.guard import CollapseGuard
from sdpo.train.model_card import write_card
from sdpo.train.teacher_refresh import TeacherRefreshCallback

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import TrainingSettings
    from sdpo.users.oracle import Oracle


class Session:
    """Holds the run directory, the model and the trainer of one run.

    A job's own session says what it trains with: `configure`, `build_trainer`, and where it has them `callbacks`,
    `validation_prompts` and `at_step_start`.
    """

    def __init__(self, settings: "TrainingSettings", job: "Job") -> None:
        self.settings, self.job = settings, job
        silence_libraries()
        config = self.configure(training_arguments(settings))  # first: it starts the process group
        self.main = config.process_index == 0
        self.run_dir = RunDirectory(settings.output_dir)
        with config.main_process_first(local=False):
            if self.main:
                self._open_run_dir()
        set_seed(settings.seed)
        self.oracle = self._oracle()
        self.tokenizer, model = load_policy(settings, config.bf16)
        self.teacher = Teacher(settings.teacher, model, settings.ema_rate, adapter=settings.adapter != "none")
        self.trainer = self.build_trainer(config, model)
        self.trainer.remove_callback(PrinterCallback)
        self.stop = GracefulStop()
        for callback in (*self._shared_callbacks(), *self.callbacks()):
            self.trainer.add_callback(callback)

    # What a job's own session says

    def configure(self, shared: dict[str, Any]) -> TrainingArguments:
        """Return the trainer's configuration: `shared` is what all training jobs give it."""
        raise NotImplementedError

    def build_trainer(self, config: TrainingArguments, model: PreTrainedModel) -> Trainer:
        """Return the trainer.

        It keeps a StepRecord (see `callbacks.MetricsCallback`) and, for the guard, `latest`: the prompts and
        completions, as ids, that this process had last. It calls `prepare_teacher`.
        """
        raise NotImplementedError

    def facts(self) -> dict[str, str]:
        """Return what an evaluation has to know of the run beside its settings."""
        return {
            "job": self.job.name,
            "system_prompt": self.job.system_prompt,
            "prompt_suffix": self.job.prompt_suffix,
        }

    def callbacks(self) -> Sequence[TrainerCallback]:
        """Return what else is to happen around a step."""
        return ()

    def validation_prompts(self) -> list[list[Message]]:
        """Return the EVAL_N prompts that are answered before and after training."""
        raise NotImplementedError

    def at_step_start(self) -> AbstractContextManager:
        """Return a context in which the random states are those of the beginning of the step under way."""
        return nullcontext()

    def before_saving_now(self) -> None:
        """Do what has to be done before a checkpoint in mid-step; every process calls it."""

    # What is the same for all

    def run(self) -> bool:
        """Measure, train and measure again; return False where the run was asked to stop before its end."""
        summary = self.run_dir.read_json("summary.json") or {}
        started = time.monotonic()
        if "before" not in summary and (before := self.measure_answers("before training")):
            summary["before"] = before
            self._write_summary(summary)
        checkpoint = self.run_dir.last_checkpoint() if self.settings.resume == "auto" else None
        self.keeper.resume_from = checkpoint
        self._warn_of_inexact_resume(checkpoint)
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
        stopped = self.guard.stopped if self.guard else []
        if stopped:
            best = summary["best_checkpoint"] = self._best_checkpoint()
            summary["stopped_by_guard"] = {"step": steps, "reasons": stopped}
            if best:
                self.trainer._load_best_model()
        if after := self.measure_answers("after training"):
            summary["after"] = after
        summary |= {"steps": steps, "style": self.settings.style, "teacher": self.settings.teacher, "finished": True}
        self._write_summary(summary)
        if self.main:
            self._report(summary)
            self._write_card_and_merge()
        if stopped:
            raise GuardStopped(
                f"the guard stopped the run after step {steps}: {'; '.join(stopped)}. The best checkpoint is "
                f"{best or 'none'}; {self.run_dir.path / guard.FILE} has the curve."
            )
        return True

    def measure_answers(self, when: str) -> dict | None:
        """Return what sampled answers are like now, the summary's `before` and `after`; None where EVAL_N is 0."""
        settings = self.settings
        if not settings.eval_n:
            return None
        found = measure_answers(
            self.trainer,
            self.tokenizer,
            self.validation_prompts(),
            settings,
            settings.max_completion_tokens,
            settings.temperature,
            self.oracle,
        )
        if self.main:
            print(f"{when}: {found['answers']} validation prompts answered", flush=True)
        return found

    def _write_card_and_merge(self) -> None:
        """Write the model card and, where it is asked for, the best or last checkpoint's adapter merged in."""
        merged = None
        if self.settings.merge_adapter:
            last = self.run_dir.last_checkpoint()
            best = self.guard.stopped and self._best_checkpoint() if self.guard else None
            merged = self.run_dir.path / "merged"
            write_merged_model(self.settings.model_name_or_path, self.run_dir.path / best if best else last, merged)
            print(f"merged model: {merged}", flush=True)
        write_card(self.run_dir, self.job.name, merged)

    def _best_checkpoint(self) -> str | None:
        best = self.trainer.state.best_model_checkpoint
        return Path(best).name if best else None

    def save_now(self) -> None:
        """Write a checkpoint of the last finished step, unless there is one. Every process calls it, in mid-step."""
        state = self.trainer.state
        self.before_saving_now()
        last = self.run_dir.last_checkpoint()
        if state.global_step and (last is None or last.name != f"checkpoint-{state.global_step}"):
            with self.at_step_start():
                self.trainer._save_checkpoint(self.trainer.model, trial=None)
            self.trainer.callback_handler.on_save(self.trainer.args, state, self.trainer.control)

    def objective(self, **more: Any) -> Objective:
        """Return how the signal becomes a loss, by the settings."""
        settings = self.settings
        return Objective(
            kind=settings.objective,
            direction=settings.direction,
            top_k=settings.top_k,
            centre=settings.centre_signal,
            clip_signal=settings.clip_signal,
            ignore_first_k=settings.ignore_first_k,
            null_contrast=settings.null_contrast,
            **more,
        )

    def _warn_of_inexact_resume(self, checkpoint: Path | None) -> None:
        """Print where a continued run will not be what it would have been without the break."""
        if checkpoint is None or not self.main:
            return
        complete = self.run_dir.read_json(f"{checkpoint.name}/{COMPLETE}") or {}
        before, now = complete.get("processes", 1), self.trainer.accelerator.num_processes
        if before != now:
            print(
                f"{checkpoint.name} was saved by {before} process(es) and {now} go on: weights, optimizer and data "
                "continue exactly, the random numbers that answers are sampled with do not",
                flush=True,
            )

    def _not_finite_error(self, error: LossNotFinite) -> RunError:
        """Write the rows to the run directory and return what to say."""
        name = f"not-finite-{self.trainer.accelerator.process_index}.json"
        self.run_dir.write_json(name, {"step": error.step, "rows": error.rows})
        last = self.run_dir.last_checkpoint()
        return RunError(
            f"{error}: the {len(error.rows)} row(s) are in {self.run_dir.path / name}. "
            + (f"{last.name} is the last whole checkpoint. " if last else "")
            + "Lower LR, or take these rows out of the data, and start again under another RUN_ID."
        )

    def _shared_callbacks(self) -> list[TrainerCallback]:
        read: Callable | None = partial(read_completions, oracle=self.oracle) if self.oracle is not None else None
        self.keeper = TeacherCallback(self.trainer, self.teacher)
        self.recorder = MetricsCallback(self.run_dir, self.trainer, self.settings.log_steps, read)
        callbacks: list[TrainerCallback] = [self.keeper, self.recorder]
        if self.settings.teacher == "gated":
            callbacks.append(
                TeacherRefreshCallback(self.run_dir, self.trainer, self.teacher, lambda: self.recorder.row)
            )
        self.guard = None
        if self.settings.guard != "off":
            stops = self.settings.guard == "stop"
            row, answers = (lambda: self.recorder.row), (lambda: self.trainer.latest)
            anchored = self.settings.teacher in FIXED
            self.guard = CollapseGuard(self.run_dir, self.trainer, row, answers, stops, anchored)
            callbacks.append(self.guard)
        return [*callbacks, self.stop]

    def _oracle(self) -> "Oracle | None":
        """Return what reads the policy's answers by the run's style, where the job has something that can."""
        known, settings = self.job.load_oracle(), self.settings
        if known is None or not settings.style or not known.reads(settings.model_name_or_path):
            return None
        return known(settings.style)

    def _open_run_dir(self) -> None:
        given = settings_module.redacted(self.settings)
        state = self.run_dir.open(given, self.settings.resume == "auto", self.facts())
        if state == "continued":
            for name in self.run_dir.remove_incomplete_checkpoints():
                print(f"removed {name}: it was only half written", flush=True)
            last = self.run_dir.last_checkpoint()
            step = int(last.name.rsplit("-", 1)[1]) if last else 0
            for name in ("metrics.jsonl", "samples.jsonl", VALIDATION_FILE, guard.FILE):
                self.run_dir.drop_rows_after(name, step)
            print(f"continuing {self.run_dir.path} after step {step}", flush=True)
        else:
            print(f"run directory: {self.run_dir.path}", flush=True)

    def _write_summary(self, summary: dict) -> None:
        if self.main:
            self.run_dir.write_json("summary.json", summary)

    def _report(self, summary: dict) -> None:
        from sdpo.train.figures import draw_training, table

        if "before" in summary:
            print(table(summary))
        picture = draw_training(self.run_dir, summary)
        print(f"picture: {picture}\nsummary: {self.run_dir.path / 'summary.json'}", flush=True)


def training_arguments(settings: "TrainingSettings") -> dict[str, Any]:
    """Return what every training job tells its trainer: sizes, optimizer, precision, saving, tracking, seed."""
    on_gpu = torch.cuda.is_available()
    # The 8-bit one cannot step weights that FSDP shares out.
    auto = "adamw_8bit" if on_gpu and os.environ.get("ACCELERATE_USE_FSDP") != "true" else "adamw"
    chosen = auto if settings.optimizer == "auto" else settings.optimizer
    optimizer = {"adamw_8bit": "adamw_bnb_8bit", "adamw": "adamw_torch"}[chosen]
    return {
        "output_dir": str(settings.output_dir),
        "run_name": settings.run_id,
        "seed": settings.seed,
        "learning_rate": settings.lr,
        "adam_beta1": settings.adam_beta1,
        "per_device_train_batch_size": settings.bs,
        "gradient_accumulation_steps": settings.ga,
        "optim": optimizer,
        "bf16": settings.precision == "bf16" or (settings.precision == "auto" and on_gpu),
        "use_cpu": not on_gpu,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "save_total_limit": settings.save_limit,
        "logging_steps": settings.log_steps,
        "report_to": ["wandb"],
        "disable_tqdm": True,
    }
