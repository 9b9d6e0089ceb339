"""The kind of each logged follow-up, read once before training by the initial model, in the run directory."""

from collections import Counter

from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset

from sdpo.english.follow_up_kinds import FollowUpReader
from sdpo.runtime.run_directory import RunDirectory
from sdpo.text.prompts import FOLLOW_UP_KINDS

FILE = "follow_up_kinds.jsonl"


def read_kinds(run: RunDirectory, reader: FollowUpReader, rows: Dataset, accelerator: Accelerator) -> list[str]:
    """Return the kind of each row's follow-up, one of FOLLOW_UP_KINDS. A resumed run reads what it wrote before."""
    if len(results := run.read_rows(FILE)) != len(rows):
        count, ranks = len(rows), accelerator.num_processes
        # The same number on every process: under FSDP all processes have to run the same forwards.
        indices = [index % count for index in range(accelerator.process_index, -(-count // ranks) * ranks, ranks)]
        kinds = reader.kinds([rows[index]["follow_up"] for index in indices])
        by_index = dict(gather_object(list(zip(indices, kinds, strict=True))))
        results = [{"id": name, "kind": by_index[index]} for index, name in enumerate(rows["id"])]
        if accelerator.is_main_process:
            run.write_rows(FILE, results)
        accelerator.wait_for_everyone()
    return [row["kind"] for row in results]


def count_kinds(kinds: list[str]) -> str:
    """Return how many there are of each kind, in words."""
    counts = Counter(kinds)
    return ", ".join(f"{counts[kind]} {kind}" for kind in FOLLOW_UP_KINDS)
