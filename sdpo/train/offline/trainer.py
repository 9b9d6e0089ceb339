"""Offline SDPO on the transformers Trainer: a collator that does not pad, the order of the rows, and the loss."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import PreTrainedModel, TrainingArguments, set_seed
from transformers.trainer_pt_utils import get_length_grouped_indices

from sdpo.errors import LossNotFinite
from sdpo.method.loss import Contexts, Target, TokenTarget
from sdpo.method.objective import Objective
from sdpo.method.teacher import Teacher
from sdpo.models.policy import with_adapter
from sdpo.train.collapse import repeated_share
from sdpo.train.record import BaseTrainer, LatestAnswers


@dataclass(frozen=True)
class Row:
    """A logged interaction as ids, its weight in the loss, and the teacher's log-probabilities if already computed.

    `cut` is True if the completion was truncated.
    """

    contexts: Contexts
    completion: list[int]
    follow_up: str
    cut: bool
    teacher_logps: list[float] | None = None
    weight: float = 1.0


def collate(rows: list[dict]) -> dict[str, list[Row]]:
    """Return a micro-batch as a list of rows; the scorer pads or packs them."""
    return {
        "rows": [
            Row(
                Contexts(row["context"], row["hindsight"], row["null"]),
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
    """A new order of the rows in each epoch, which depends only on the seed and the epoch.

    The sampler of transformers that groups rows by length uses the global random state and, with several processes, is
    not given the epoch of a resumed run, which then trained on other rows. `group` is the number of rows of similar
    length that stay together; with None all rows are shuffled. `epoch` returns the number of finished epochs.
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


class OfflineTrainer(BaseTrainer):
    """Trainer with the hindsight loss of logged interactions. With `peft_config` it trains an adapter on the model."""

    train_dataset: Dataset

    def __init__(
        self,
        *,
        model: PreTrainedModel,
        teacher: Teacher,
        objective: Objective,
        args: TrainingArguments,
        peft_config: LoraConfig | None = None,
        **arguments: Any,
    ) -> None:
        set_seed(args.seed)  # an adapter begins with random weights
        super().__init__(
            model=with_adapter(model, peft_config, bool(args.gradient_checkpointing)),
            teacher=teacher,
            objective=objective,
            args=args,
            data_collator=collate,
            **arguments,
        )

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> EpochOrder:
        args, rows = self.args, self.train_dataset if train_dataset is None else train_dataset
        grouped = args.train_sampling_strategy == "group_by_length"
        group = args.train_batch_size * args.gradient_accumulation_steps if grouped else None
        return EpochOrder(list(rows[args.length_column_name]), group, args.seed, lambda: int(self.state.epoch or 0))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Return the mean over rows of the mean over tokens; the Trainer divides it by the gradient accumulation.

        Raises LossNotFinite, with the rows of the micro-batch that are the cause.
        """
        rows: list[Row] = inputs["rows"]
        completions = [row.completion for row in rows]
        with self.record.timed("scoring"):
            targets = self._targets(rows)
        weights_B = torch.tensor([row.weight for row in rows], device=self.accelerator.device)
        result = self.hindsight.loss(model, [row.contexts for row in rows], completions, targets, weights_B)
        texts = [self._texts(row) for row in rows]
        if not torch.isfinite(result.loss):
            raise LossNotFinite(self.state.global_step + 1, self.record.rows_not_finite(texts, completions, result))
        self.record.rows += len(rows)
        self.record.usable += len(rows)
        self.record.truncated += sum(row.cut for row in rows)
        self.record.repetition += sum(map(repeated_share, completions))
        self.record.add(result, weights_B > 0)
        self.record.sample(texts, completions, result, self.processing_class)
        self.latest = LatestAnswers([row.contexts.prompt for row in rows], completions)
        return self.with_rehearsal(result.loss, model)

    def _targets(self, rows: list[Row]) -> list[Target]:
        if rows[0].teacher_logps is not None:
            device = self.accelerator.device
            return [TokenTarget(torch.tensor(row.teacher_logps, device=device)) for row in rows]
        targets = self.hindsight.teacher_targets([row.contexts for row in rows], [row.completion for row in rows])
        self.record.forwards += self.hindsight.forwards
        return targets

    def _texts(self, row: Row) -> dict:
        tokenizer = self.processing_class
        return {
            "prompt": tokenizer.decode(row.contexts.prompt),
            "completion": tokenizer.decode(row.completion),
            "follow_up": row.follow_up,
        }
