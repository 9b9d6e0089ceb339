"""What the starting model makes of the logged rows, before it is trained: one look, kept in the run directory.

It tells how much signal a row carries, to leave out or weigh rows by, and holds a frozen teacher's whole
work: its log-probabilities are the same in every epoch.
"""

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from torch import nn
from tqdm import tqdm

from sdpo.method.scoring import score
from sdpo.runtime.run_directory import RunDirectory

FILE = "starting_signal.jsonl"


def measure_initial_signal(
    run: RunDirectory, model: nn.Module, rows: Dataset, batch_size: int, accelerator: Accelerator
) -> tuple[list[list[float]], list[float]]:
    """Return per row the log-probabilities of its completion's tokens after `x, o`, and its mean |signal| per token.

    The model has to be as the run starts from it. What was written by an earlier start of this run is read.
    """
    if len(found := run.read_rows(FILE)) != len(rows):
        places = range(accelerator.process_index, len(rows), accelerator.num_processes)
        shown = accelerator.is_main_process
        mine = [
            (place, *row)
            for chosen in _batches(rows, places, batch_size, shown)
            for place, row in zip(chosen, _score_rows(model, rows.select(chosen)), strict=True)
        ]
        gathered = sorted(gather_object(mine))
        found = [
            {"id": rows[place]["id"], "signal_size": size, "teacher_logps": logps} for place, size, logps in gathered
        ]
        if shown:
            run.write_rows(FILE, found)
        accelerator.wait_for_everyone()
    return [row["teacher_logps"] for row in found], [row["signal_size"] for row in found]


def _batches(rows: Dataset, places: range, size: int, shown: bool) -> Iterator[list[int]]:
    """Yield the places in batches of like length."""
    lengths = rows["length"]
    ordered = sorted(places, key=lambda place: lengths[place])
    starts = range(0, len(ordered), size)
    for start in tqdm(starts, desc="the starting model looks back", unit=" batches", disable=not shown, mininterval=1):
        yield ordered[start : start + size]


@torch.no_grad()
def _score_rows(model: nn.Module, rows: Dataset) -> list[tuple[float, list[float]]]:
    was_training = model.training
    model.eval()
    completions = list(rows["completion"])
    shown_BT = score(model, list(rows["hindsight"]), completions).logps_BT
    bare = score(model, list(rows["context"]), completions)
    model.train(was_training)
    sizes_B = ((shown_BT - bare.logps_BT).abs() * bare.mask_BT).sum(1) / bare.mask_BT.sum(1)
    return [
        (size, logps[: len(ids)])
        for size, logps, ids in zip(sizes_B.tolist(), shown_BT.tolist(), completions, strict=True)
    ]
