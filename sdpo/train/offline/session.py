"""One offline training run: reads the rows, measures the initial signal if a setting needs it, and trains."""

import itertools
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, TrainerCallback, TrainingArguments

from sdpo.english.follow_up_kinds import FollowUpReader
from sdpo.errors import SettingError
from sdpo.method import scoring
from sdpo.models.policy import adapter_config
from sdpo.settings.inputs import read_template
from sdpo.text.prompts import FOLLOW_UP_KINDS, Message
from sdpo.text.records import read_interactions
from sdpo.train.objective import build_objective
from sdpo.train.offline import initial_signal
from sdpo.train.offline.data import read_rows, with_lengths
from sdpo.train.offline.enough import check_enough
from sdpo.train.offline.estimate import time_a_step
from sdpo.train.offline.held_out import HeldOutCallback
from sdpo.train.offline.kinds import count_kinds, read_kinds
from sdpo.train.offline.mixture import validation_file
from sdpo.train.offline.trainer import OfflineTrainer
from sdpo.train.offline.truncation import TruncationLimits
from sdpo.train.session import Session

if TYPE_CHECKING:
    from sdpo.settings import OfflineSettings

LEFT_OUT = "left_out.jsonl"


class OfflineSession(Session[TrainingArguments]):
    """Trains on logged conversations."""

    settings: "OfflineSettings"
    trainer: OfflineTrainer

    def configure(self, shared: dict[str, Any]) -> TrainingArguments:
        """Return the Trainer's configuration: a cosine schedule with warm-up over EPOCHS epochs."""
        settings = self.settings
        self.packs = settings.layout == "packed" or (settings.layout == "auto" and torch.cuda.is_available())
        return TrainingArguments(
            **shared,
            lr_scheduler_type="cosine",
            warmup_steps=settings.warmup,  # below 1: a share of the steps
            num_train_epochs=settings.epochs,
            max_grad_norm=settings.max_grad_norm,
            train_sampling_strategy="random" if self.packs else "group_by_length",
            remove_unused_columns=False,
            # So that all rows of a step weigh the same. The few rows left over differ between epochs.
            dataloader_drop_last=True,
        )

    def build_trainer(self, config: TrainingArguments, model: PreTrainedModel) -> OfflineTrainer:
        """Return the trainer with its rows, after measuring the initial signal if a setting needs it."""
        settings = self.settings
        limits = TruncationLimits(
            settings.max_context_tokens,
            settings.max_completion_tokens,
            read_template(settings.hindsight_template, settings.hindsight_file),
            settings.null_follow_up if settings.null_contrast else None,
        )
        with config.main_process_first(local=False):
            rows = read_rows(settings, self.job.data_command, self.tokenizer, limits, self.run_dir.path)
        check_enough(settings, len(rows.training))
        self.rows = rows._replace(training=with_lengths(rows.training))
        if self.main:
            self.run_dir.write_rows(LEFT_OUT, rows.left_out)
            print(rows.summary + (f" (see {self.run_dir.path / LEFT_OUT})" if rows.left_out else ""), flush=True)
        if self.packs and not pack_rows_if_able(model, settings.layout):
            self.packs, config.train_sampling_strategy = False, "group_by_length"
            if self.main:
                print("LAYOUT=grouped: this model's attention cannot separate packed rows by position", flush=True)
        trainer = OfflineTrainer(
            model=model,
            teacher=self.teacher,
            start=self.start_scorer,
            objective=build_objective(settings, settings.top_k),
            args=config,
            train_dataset=self.rows.training,
            processing_class=self.tokenizer,
            peft_config=adapter_config(settings),
        )
        self.rows = self.rows._replace(training=self._learned_from(trainer))
        trainer.train_dataset = self._with_initial_signal(trainer)
        self._print_estimate(trainer)
        return trainer

    def callbacks(self) -> list[TrainerCallback]:
        """Return the callback that measures the held-out rows, if there are any."""
        if not len(self.rows.held_out):
            return []
        return [HeldOutCallback(self.run_dir, self.trainer, self.rows.held_out, self.settings.holdout_steps)]

    def validation_prompts(self) -> list[list[Message]]:
        """Return the prompts of EVAL_N validation interactions."""
        rows = read_interactions(validation_file(self.settings), self.job.data_command)
        return [row.prompt for row in itertools.islice(rows, self.settings.eval_n)]

    def _learned_from(self, trainer: OfflineTrainer) -> Dataset:
        """Return the training rows, with LEARN_FROM=complaints only those whose follow-up is one.

        Raises SettingError if they are fewer than one step takes.
        """
        settings, rows = self.settings, self.rows.training
        if settings.learn_from == "all":
            return rows
        reader = FollowUpReader(trainer.start.run, self.tokenizer)
        kinds = read_kinds(self.run_dir, reader, rows, trainer.accelerator)
        kept = [index for index, kind in enumerate(kinds) if kind == FOLLOW_UP_KINDS[0]]
        if self.main:
            print(f"follow-ups: {count_kinds(kinds)}; learning from the complaints", flush=True)
        if len(kept) < self.settings.step_rows:
            raise SettingError(
                f"LEARN_FROM=complaints leaves {len(kept)} rows, fewer than the {settings.step_rows} that one step "
                "takes (BS x GA x GPUS). Lower BS or GA, add data with complaints, or give LEARN_FROM=all."
            )
        return rows.select(kept)

    def _with_initial_signal(self, trainer: OfflineTrainer) -> Dataset:
        """Return the training rows, filtered, weighted and with the teacher's log-probabilities as the settings ask.

        Raises SettingError if MIN_SIGNAL leaves fewer rows than one step takes.
        """
        settings, rows = self.settings, self.rows.training
        plain = settings.objective == "token" and not settings.null_contrast
        reused = settings.teacher == "frozen" and settings.epochs > 1 and plain
        if not (reused or settings.min_signal or settings.weight_by_signal):
            return rows
        with trainer.precision_of_training():
            logps, sizes = initial_signal.measure_initial_signal(
                self.run_dir, trainer.model, rows, settings.eval_batch_size, trainer.accelerator
            )
        if reused:
            rows = rows.add_column("teacher_logps", logps)
        kept = [index for index, size in enumerate(sizes) if size >= settings.min_signal]
        if settings.weight_by_signal and kept:
            mean = fmean(sizes[index] for index in kept)
            rows = rows.add_column("weight", [size / mean if mean else 1.0 for size in sizes])
        if self.main and settings.min_signal:
            print(
                f"{len(rows) - len(kept)} rows with a mean |signal| below MIN_SIGNAL={settings.min_signal:g} dropped",
                flush=True,
            )
        if len(kept) < self.settings.step_rows:
            raise SettingError(
                f"MIN_SIGNAL={settings.min_signal:g} leaves {len(kept)} rows, fewer than the {settings.step_rows} that "
                "one step takes (BS x GA x GPUS). Lower MIN_SIGNAL, BS or GA: the "
                f"largest mean |signal| is {max(sizes):.4f}."
            )
        return rows.select(kept) if len(kept) < len(rows) else rows

    def _print_estimate(self, trainer: OfflineTrainer) -> None:
        settings, rows = self.settings, trainer.train_dataset
        tokens = sum(rows["length"])
        steps = settings.epoch_steps(len(rows)) * settings.epochs
        seconds, memory = time_a_step(trainer)
        if self.main:
            print(
                f"{len(rows)} rows, {tokens:,} tokens, {steps} steps of {settings.step_rows} rows "
                f"in {settings.epochs} epochs{settings.waiting(len(rows))}; "
                + (f"about {steps * seconds / 3600:.2f} hours at {seconds:.2f} s per step, " if seconds else "")
                + f"peak memory so far {memory:.1f} GB, without optimizer states",
                flush=True,
            )


def pack_rows_if_able(model: PreTrainedModel, layout: str) -> bool:
    """Score the model's rows packed from now on if its attention supports that; return whether.

    Raises SettingError if it does not and the layout must be "packed".
    """
    packs = scoring.pack_rows(model)
    if not packs and layout == "packed":
        raise SettingError("this model's attention cannot separate packed rows by position. Give LAYOUT=grouped.")
    return packs
