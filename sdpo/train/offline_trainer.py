"""Offline SDPO on transformers' Trainer: a collator that keeps rows as they are, and the loss."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

from sdpo.errors import LossNotFinite
from sdpo.objective import Objective
from sdpo.train.guard import repeated_share
from sdpo.train.loss import Contexts, HindsightLoss, Target
from sdpo.train.models import keep_adapter_precise
from sdpo.train.record import StepRecord
from sdpo.train.teacher import Teacher


@dataclass(frozen=True)
class Row:
    """A logged interaction as ids; what the teacher makes of it where that is known already; its weight."""

    contexts: Contexts
    completion: list[int]
    follow_up: str
    cut: bool
    teacher_logps: list[float] | None = None
    weight: float = 1.0


def collate(rows: list[dict]) -> dict[str, list[Row]]:
    """Return the rows as they are: padding, or none, is the scorer's business."""
    return {
        "rows": [
            Row(
                Contexts(row["context"], row["hindsight"], row["unrelated"]),
                row["completion"],
                row["follow_up"],
                row["completion_cut"],
                row.get("teacher_logps"),
                row.get("weight", 1.0),
            )
            for row in rows
        ]
    }


class OfflineTrainer(Trainer):
    """Trainer whose loss is that of logged interactions. `record` holds the step under way."""

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        teacher: Teacher,
        objective: Objective,
        args: TrainingArguments,
        **arguments,
    ) -> None:
        super().__init__(model=model, args=args, data_collator=collate, **arguments)
        keep_adapter_precise(self.model)
        teacher.prepare(self.accelerator, self.model)
        self.hindsight = HindsightLoss(teacher, objective, args.per_device_train_batch_size)
        self.record = StepRecord()
        self.latest: tuple[list[list[int]], list[list[int]]] = ([], [])  # prompts and completions of this process

    def take_record(self) -> StepRecord:
        """Return the record of the step that ended and begin the next."""
        record, self.record = self.record, StepRecord()
        return record

    def compute_loss(
        self, model: nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch: Tensor | None = None
    ) -> Tensor:
        """Return the mean over the rows of their means over tokens; the Trainer divides it by the accumulation."""
        rows: list[Row] = inputs["rows"]
        completions = [row.completion for row in rows]
        with self.record.timed("scoring"):
            targets = self._targets(rows)
        weights_B = torch.tensor([row.weight for row in rows], device=self.accelerator.device)
        result = self.hindsight.loss(model, [row.contexts for row in rows], completions, targets, weights_B)
        texts = [self._words(row) for row in rows]
        if not torch.isfinite(result.loss):
            rows_found = self.record.rows_not_finite(texts, completions, result)
            raise LossNotFinite(self.state.global_step + 1, rows_found)
        self.record.rows += len(rows)
        self.record.usable += len(rows)
        self.record.truncated += sum(row.cut for row in rows)
        self.record.repetition += sum(map(repeated_share, completions))
        self.record.add(result, weights_B)
        self.record.sample(texts, completions, result, self.processing_class)
        self.latest = [row.contexts.prompt for row in rows], completions
        return result.loss

    def _targets(self, rows: list[Row]) -> list[Target]:
        if rows[0].teacher_logps is not None:
            device = self.accelerator.device
            return [Target(torch.tensor(row.teacher_logps, device=device)) for row in rows]
        self.record.forwards += self.hindsight.forwards(len(rows))
        return self.hindsight.look_back([row.contexts for row in rows], [row.completion for row in rows])

    def _words(self, row: Row) -> dict[str, str]:
        decode = self.processing_class.decode
        return {
            "prompt": decode(row.contexts.prompt),
            "completion": decode(row.completion),
            "follow_up": row.follow_up,
        }
