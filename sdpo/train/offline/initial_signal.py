"""The signal of each logged row under the initial model, measured once before training, in the run directory.

It is used to drop or weigh rows. The log-probabilities are also all that a frozen teacher computes: they are the same
in every epoch.
"""

from collections.abc import Iterator, Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from torch import nn

from sdpo import progress
from sdpo.method.shared_prefix import score_of_each
from sdpo.runtime.run_directory import RunDirectory

FILE = "starting_signal.jsonl"


def measure_initial_signal(
    run: RunDirectory, model: nn.Module, rows: Dataset, batch_size: int, accelerator: Accelerator
) -> tuple[list[list[float]], list[float]]:
    """Return per row the log-probabilities of its completion's tokens after `x, o`, and its mean |signal| per token.

    The model must be the one that the run starts from. A resumed run reads what it wrote before.
    """
    if len(results := run.read_rows(FILE)) != len(rows):
        rank, ranks = accelerator.process_index, accelerator.num_processes
        # As many on every process: all have to run the same forward passes.
        indices = [index % len(rows) for index in range(rank, -(-len(rows) // ranks) * ranks, ranks)]
        rank_rows = [
            (index, *row)
            for batch in _batches(rows, indices, batch_size)
            for index, row in zip(batch, _score_rows(model, rows.select(batch)), strict=True)
        ]
        gathered = sorted({index: (index, *row) for index, *row in gather_object(rank_rows)}.values())
        results = [
            {"id": rows[index]["id"], "signal_size": size, "teacher_logps": logps} for index, size, logps in gathered
        ]
        if accelerator.is_main_process:
            run.write_rows(FILE, results)
        accelerator.wait_for_everyone()
    return [row["teacher_logps"] for row in results], [row["signal_size"] for row in results]


def _batches(rows: Dataset, indices: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield the indices in batches of rows of similar length."""
    lengths = rows["length"]
    ordered = sorted(indices, key=lambda index: lengths[index])
    starts = range(0, len(ordered), size)
    for start in progress.each(starts, "scoring rows with the initial model", "batches"):
        yield ordered[start : start + size]


@torch.no_grad()
def _score_rows(model: nn.Module, rows: Dataset) -> list[tuple[float, list[float]]]:
    """Return per row the mean |signal| per token, and the log-probabilities of the completion's tokens in hindsight."""
    was_training = model.training
    model.eval()
    completions = list(rows["completion"])
    contexts = [list(rows["hindsight"]), list(rows["context"])]
    hindsight, plain = score_of_each(model, contexts, completions, len(completions))
    model.train(was_training)
    hindsight_BT, mask_BT = hindsight.logps_BT, plain.mask_BT
    sizes_B = ((hindsight_BT - plain.logps_BT).abs() * mask_BT).sum(1) / mask_BT.sum(1)
    return [
        (size, logps[: len(ids)])
        for size, logps, ids in zip(sizes_B.tolist(), hindsight_BT.tolist(), completions, strict=True)
    ]
