"""The signal of each logged row under the initial model, measured once before training, in the run directory.

It is used to drop or weigh rows. The log-probabilities are also all that a frozen teacher computes: they are the same
in every epoch.
"""

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from torch import nn

from sdpo import progress
from sdpo.method.scoring import score
from sdpo.runtime.run_directory import RunDirectory

FILE = "starting_signal.jsonl"


def measure_initial_signal(
    run: RunDirectory, model: nn.Module, rows: Dataset, batch_size: int, accelerator: Accelerator
) -> tuple[list[list[float]], list[float]]:
    """Return per row the log-probabilities of its completion's tokens after `x, o`, and its mean |signal| per token.

    The model must be the one that the run starts from. A resumed run reads what it wrote before.
    """
    if len(results := run.read_rows(FILE)) != len(rows):
        indices = range(accelerator.process_index, len(rows), accelerator.num_processes)
        rank_rows = [
            (index, *row)
            for batch in _batches(rows, indices, batch_size)
            for index, row in zip(batch, _score_rows(model, rows.select(batch)), strict=True)
        ]
        gathered = sorted(gather_object(rank_rows))
        results = [
            {"id": rows[index]["id"], "signal_size": size, "teacher_logps": logps} for index, size, logps in gathered
        ]
        if accelerator.is_main_process:
            run.write_rows(FILE, results)
        accelerator.wait_for_everyone()
    return [row["teacher_logps"] for row in results], [row["signal_size"] for row in results]


def _batches(rows: Dataset, indices: range, size: int) -> Iterator[list[int]]:
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
    hindsight_BT = score(model, list(rows["hindsight"]), completions).logps_BT
    plain = score(model, list(rows["context"]), completions)
    model.train(was_training)
    sizes_B = ((hindsight_BT - plain.logps_BT).abs() * plain.mask_BT).sum(1) / plain.mask_BT.sum(1)
    return [
        (size, logps[: len(ids)])
        for size, logps, ids in zip(sizes_B.tolist(), hindsight_BT.tolist(), completions, strict=True)
    ]
