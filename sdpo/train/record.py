"""The record of one process's optimizer step, and the base class of the trainers that keep one."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import AutocastKwargs
from peft import PeftModel
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from sdpo import progress
from sdpo.method.loss import HindsightLoss, LossResult
from sdpo.method.objective import Objective
from sdpo.method.teacher import Teacher
from sdpo.models.policy import hold_trained_weights_in_float32
from sdpo.text.prompts import Message
from sdpo.train.sharding import ShardingCallback, keep_outputs_in_float32, move_before_wrapping
from sdpo.train.teacher_weights import prepare_teacher

COMPLAINT_NATS = -3.0  # signal of a token that is less than a twentieth as probable in hindsight
SAMPLES_PER_STEP = 4  # interactions per step that are written in full to samples.jsonl


@dataclass
class StepRecord:
    """What one process did in one optimizer step. All numbers are sums, so that processes can be added up.

    `satisfied` counts the `judged` users whose follow-up made no token of the answer much less probable
    (COMPLAINT_NATS). `stated` counts the usable follow-ups of which it is known whether the user is satisfied, because
    the user says so or an oracle reads it, and `stated_satisfied` those of satisfied users. `unmoved` counts the
    answers with a usable follow-up that changed none of their tokens by FOCUS. `rehearsal` is the divergence from the
    start model on its own answers, without its weight, of `rehearsals` micro-batches.
    """

    rows: int = 0
    usable: int = 0
    unmoved: int = 0
    empty: int = 0
    too_long: int = 0
    truncated: int = 0
    tokens: float = 0.0
    loss: float = 0.0
    micro_batches: int = 0
    signal: float = 0.0
    signal_size: float = 0.0
    judged: float = 0.0
    satisfied: float = 0.0
    stated: int = 0
    stated_satisfied: int = 0
    repetition: float = 0.0
    entropy: float = 0.0
    rehearsal: float = 0.0
    rehearsals: int = 0
    forwards: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("generation", "user", "scoring"), 0.0))
    prompts: list[str] = field(default_factory=list)
    completions: list[str] = field(default_factory=list)
    samples: list[dict] = field(default_factory=list)

    def add(self, result: LossResult, usable_B: Tensor) -> dict[str, float]:
        """Add a micro-batch and return its means per token for the tracker.

        `usable_B` marks the rows with a usable follow-up; the signal of the others counts as zero.
        """
        usable_B1, mask_BT = usable_B.float()[:, None], result.scores.mask_BT
        tokens = mask_BT.sum().item()
        # A follow-up that makes a token much less probable is a complaint. The sum over the answer would not do: with
        # a frozen teacher it falls with everything that the policy learns.
        satisfied_B = (result.signal_BT * mask_BT).amin(1) > COMPLAINT_NATS
        self.judged += usable_B.sum().item()
        self.satisfied += (satisfied_B & usable_B).sum().item()
        sums = {
            "signal": (result.signal_BT * usable_B1).sum().item(),
            "signal_size": (result.signal_BT.abs() * usable_B1).sum().item(),
            "entropy": (result.scores.entropy_BT * mask_BT).sum().item(),
        }
        for name, value in {"tokens": tokens, **sums}.items():
            setattr(self, name, getattr(self, name) + value)
        self.forwards += 1
        self.micro_batches += 1
        self.loss += result.loss.item()
        return {name: value / tokens for name, value in sums.items()}

    def sample(
        self, texts: list[dict], completions: list[list[int]], result: LossResult, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        """Keep the first interactions of the step in full, up to SAMPLES_PER_STEP.

        `texts` holds prompt, completion and follow-up of each row.
        """
        for row in range(min(SAMPLES_PER_STEP - len(self.samples), len(completions))):
            ids = completions[row]
            tokens = [tokenizer.decode([token]) for token in ids]
            signal = [round(value, 4) for value in result.signal_BT[row, : len(ids)].tolist()]
            self.samples.append({**texts[row], "tokens": tokens, "signal": signal})

    @staticmethod
    def rows_not_finite(texts: list[dict], completions: list[list[int]], result: LossResult) -> list[dict]:
        """Return the interactions with a value that is not finite, with the signal and log-probability of each token.

        Returns all rows where the values of each row are finite: then the weights are not.
        """
        logps_BT, signal_BT = result.scores.logps_BT.detach(), result.signal_BT
        bad_B = ~(torch.isfinite(logps_BT) & torch.isfinite(signal_BT)).all(1)
        rows = bad_B.nonzero().flatten().tolist() or range(len(completions))
        return [
            {
                **texts[row],
                "completion_ids": completions[row],
                "log_probabilities": [repr(value) for value in logps_BT[row, : len(completions[row])].tolist()],
                "signal": [repr(value) for value in signal_BT[row, : len(completions[row])].tolist()],
            }
            for row in rows
        ]

    def timed(self, part: str) -> "Timer":
        """Return a context manager that adds the seconds spent inside it to `seconds[part]`."""
        return Timer(self.seconds, part)


class Timer:
    """Context manager that adds the seconds spent inside it to `seconds[part]`, queued GPU work included."""

    def __init__(self, seconds: dict[str, float], part: str) -> None:
        self.seconds, self.part = seconds, part

    def __enter__(self) -> None:
        self.started = now()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.part] += now() - self.started


@dataclass
class LatestAnswers:
    """The most recent completions of a process as token ids, with their prompts as token ids.

    `messages` are the same prompts as messages; empty if the completions are not the policy's own, but logged ones.
    `bare_hidden` are the teacher's hidden states after the prompts alone, where it has them (`HindsightLoss`).
    """

    prompts: list[list[int]] = field(default_factory=list)
    completions: list[list[int]] = field(default_factory=list)
    messages: list[list[Message]] = field(default_factory=list)
    bare_hidden: list[Tensor] | None = None


class BaseTrainer(Trainer):
    """Base of the online and the offline trainer: the hindsight loss, and the record of the current step.

    `record` is that of the step in progress. `latest` holds this process's most recent completions; the guard measures
    them. `start` is the model that the run started from or, if it is not given, the teacher. A subclass that also
    extends another trainer names this class first, so that `__init__` passes the other arguments on to it.
    """

    model: PreTrainedModel | PeftModel
    processing_class: PreTrainedTokenizerBase
    lr_scheduler: LambdaLR  # set when training starts

    def __init__(
        self,
        *,
        model: PreTrainedModel | PeftModel,
        teacher: Teacher,
        objective: Objective,
        args: TrainingArguments,
        start: Teacher | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(model=model, args=args, **arguments)
        hold_trained_weights_in_float32(self.model)
        keep_outputs_in_float32(self.accelerator)
        prepare_teacher(teacher, self.accelerator, self.model)
        if start is not None and start is not teacher:
            prepare_teacher(start, self.accelerator, self.model)
        move_before_wrapping(self.model, self.accelerator)
        self.add_callback(ShardingCallback(self))
        self.hindsight = HindsightLoss(teacher, objective, args.per_device_train_batch_size)
        self.record = StepRecord()
        self.latest = LatestAnswers()
        self.start = start if start is not None else teacher
        # Returns the divergence from the start model on its own answers; its weight in the loss.
        self.rehearsal: Callable[[nn.Module, int], Tensor | None] | None = None
        self.rehearsal_weight = 0.0
        # The Trainer would remove checkpoints before a new one is complete, and with a limit of 1 the last one too.
        self.save_limit, self.args.save_total_limit = self.args.save_total_limit, None
        self.interrupted = False  # while a checkpoint is written because the run ends or waits before its time

    def precision_of_training(self) -> AbstractContextManager:
        """Return the context in which the policy computes as it does in training, for figures that are compared.

        The Trainer does so only once it trains, and then not where an adapter generates. Copies of the weights in bf16
        are kept inside of it, unless weights that FSDP shards later lie whole on each GPU.
        """
        return self.accelerator.autocast(AutocastKwargs(cache_enabled=not self.is_fsdp_enabled))

    @property
    def is_between_passes(self) -> bool:
        """Whether the next step takes its answers from the batch that the last one used (ITERATIONS)."""
        return False

    def with_rehearsal(self, loss: Tensor, model: nn.Module) -> Tensor:
        """Return the loss of a micro-batch with that of rehearsal added, if there is any."""
        if self.rehearsal is None or not model.training:
            return loss
        processes = self.accelerator.num_processes
        accumulation = self.args.gradient_accumulation_steps
        micro_batch = self.state.global_step * accumulation + (self.record.micro_batches - 1) % accumulation
        divergence = self.rehearsal(model, micro_batch * processes + self.accelerator.process_index)
        if divergence is None:
            return loss
        self.record.forwards += 2  # the start model's and the policy's
        self.record.rehearsals += 1
        self.record.rehearsal += divergence.item()
        return loss + self.rehearsal_weight * divergence

    @property
    def is_interim(self) -> bool:
        """Whether a checkpoint of this step is an interim one: of an interruption, and not one of SAVE_STEPS."""
        step, steps = self.state.global_step, self.state.max_steps
        return self.interrupted and step < steps and step % self.state.save_steps != 0

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save as ever, and show that it is under way."""
        with progress.task(f"writing checkpoint-{self.state.global_step}"):
            super()._save_checkpoint(model, trial)

    def load_best(self) -> bool:
        """Load the best checkpoint into the policy; return False, and say so, if it has not what FSDP loads."""
        # FSDP reads weights in a file of its own, which is written with the optimizer's state.
        if self.is_fsdp_enabled and self.args.save_only_model:
            if self.accelerator.is_main_process:
                name = Path(str(self.state.best_model_checkpoint)).name
                print(
                    f"{name} cannot be loaded into sharded weights, because SAVE_ONLY_MODEL=1 leaves out FSDP's own "
                    "file: answers after training are not measured",
                    flush=True,
                )
            return False
        self._load_best_model()
        return True

    def take_record(self) -> StepRecord:
        """Return the record of the step that ended, and start that of the next."""
        record, self.record = self.record, StepRecord()
        return record


def now() -> float:
    """Return the seconds of a clock, once the GPU has done what is queued."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
