"""LEARN_FROM=complaints offline: kinds are read once and kept, and only complaints are trained on."""

import json
import sys
from types import SimpleNamespace

import pytest
from datasets import Dataset

from sdpo.runtime.run_directory import RunDirectory
from sdpo.train.offline.kinds import FILE, count_kinds, read_kinds
from tests import forks
from tests.worlds import PROJECT, environment, rows_of


class Reader:
    """Reads a message by its first word, and counts the messages."""

    def __init__(self) -> None:
        self.read = 0

    def kinds(self, messages):
        self.read += len(messages)
        return [{"no": "complaint", "thanks": "thanks"}.get(text.split()[0], "new topic") for text in messages]


ALONE = SimpleNamespace(num_processes=1, process_index=0, is_main_process=True, wait_for_everyone=lambda: None)
ROWS = Dataset.from_dict({"id": ["a", "b", "c"], "follow_up": ["no lists", "thanks a lot", "what is jam"]})


def test_kinds_are_read_once_and_found_again(tmp_path):
    run, reader = RunDirectory(tmp_path), Reader()
    kinds = read_kinds(run, reader, ROWS, ALONE)
    assert kinds == ["complaint", "thanks", "new topic"] and reader.read == 3
    assert [row["id"] for row in rows_of(tmp_path / FILE)] == ["a", "b", "c"]
    assert read_kinds(run, reader, ROWS, ALONE) == kinds and reader.read == 3
    assert count_kinds(kinds) == "1 complaint, 1 thanks, 1 new topic"


@pytest.mark.slow
def test_only_complaints_are_trained_on(tmp_path):
    out = tmp_path / "run"
    values = {"learn_from": "complaints", "eval_n": 0, "min_signal": 0, "epochs": 1, "holdout": 0, "output_dir": out}
    flags = [part for name, value in values.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    done = forks.run(
        [sys.executable, "-m", "jobs.train_offline", "--tiny", *flags],
        env=environment(WANDB_MODE="offline"), cwd=PROJECT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = [row["kind"] for row in rows_of(out / FILE)]
    assert 16 <= kinds.count("complaint") < len(kinds)
    assert count_kinds(kinds) in done.stdout
    metrics = rows_of(out / "metrics.jsonl")
    assert metrics[-1]["interactions"] == kinds.count("complaint") // 16 * 16
    assert json.loads((out / "summary.json").read_text())["finished"]
