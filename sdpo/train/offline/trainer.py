"""Offline SDPO on transformers' Trainer: a collator that keeps rows as they are, and the loss."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_pt_utils import get_length_grouped_indices

from sdpo.errors import LossNotFinite
from sdpo.method.loss import Contexts, HindsightLoss, Target
from sdpo.method.objective import Objective
from sdpo.method.teacher import Teacher
from sdpo.models.policy import hold_trained_weights_in_float32
from sdpo.train.guard import repeated_share
from sdpo.train.record import StepRecord
from sdpo.train.teacher_weights import prepare_teacher


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


class EpochOrder(Sampler[int]):
    """A new order of the rows in each epoch, which depends on the seed and the epoch alone.

    Transformers' own takes it from the global random state for rows of like length, and, with several processes, does
    not tell a sampler which epoch a run that goes on is in: it then went on with other rows. `group` rows are of like
    length, None mixes all; `epoch` says how many epochs are over.
    """

    def __init__(self, lengths: Sequence[int], group: int | None, seed: int, epoch: Callable[[], int]) -> None:
        self.lengths, self.group, self.seed, self.epoch = lengths, group, seed, epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch())
        if self.group is None:
            return iter(torch.randperm(len(self.lengths), generator=generator).tolist())
        return iter(get_length_grouped_indices(self.lengths, self.group, generator=generator))


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
        hold_trained_weights_in_float32(self.model)
        prepare_teacher(teacher, self.accelerator, self.model)
        self.hindsight = HindsightLoss(teacher, objective, args.per_device_train_batch_size)
        self.record = StepRecord()
        self.latest: tuple[list[list[int]], list[list[int]]] = ([], [])  # prompts and completions of this process

    def take_record(self) -> StepRecord:
        """Return the record of the step that ended and begin the next."""
        record, self.record = self.record, StepRecord()
        return record

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> EpochOrder:
        args, rows = self.args, self.train_dataset if train_dataset is None else train_dataset
        grouped = args.train_sampling_strategy == "group_by_length"
        group = args.train_batch_size * args.gradient_accumulation_steps if grouped else None
        return EpochOrder(list(rows[args.length_column_name]), group, args.seed, lambda: int(self.state.epoch or 0))

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
        self.record.add(result, weights_B > 0)
        self.record.sample(texts, completions, result, self.processing_class)
        self.latest = [row.contexts.prompt for row in rows], completions
        return result.loss

    def _targets(self, rows: list[Row]) -> list[Target]:
        if rows[0].teacher_logps is not None:
            device = self.accelerator.device
            return [Target(torch.tensor(row.teacher_logps, device=device)) for row in rows]
        self.record.forwards += self.hindsight.forwards(len(rows))
        return self.hindsight.teacher_targets([row.contexts for row in rows], [row.completion for row in rows])

    def _words(self, row: Row) -> dict[str, str]:
        decode = self.processing_class.decode
        return {
            "prompt": decode(row.contexts.prompt),
            "completion": decode(row.completion),
            "follow_up": row.follow_up,
        }
