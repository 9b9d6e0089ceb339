"""Run directories made without training, and evaluations of them in this process or in one that can be killed."""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from jobs import eval_tldr
from sdpo.errors import KEEP_EXIT_CODE
from sdpo.runtime.launch import main
from sdpo.runtime.run_directory import RunDirectory
from sdpo.text.prompts import PERSONAS, SUMMARY_SYSTEM
from sdpo.tiny import MODEL_DIR, WORLD_DIR
from tests import forks
from tests.worlds import PROJECT, environment

STYLE = "no_emojis"
DONE = (0, KEEP_EXIT_CODE)  # the exit codes of an evaluation that came to its end
SETTINGS = {
    "model": str(MODEL_DIR),
    "style": STYLE,
    "style_file": None,
    "max_prompt_tokens": 256,
    "max_completion_tokens": 24,
    "val_jsonl": str(WORLD_DIR / "data" / "validation.jsonl"),
    "train_jsonl": str(WORLD_DIR / "data" / "train.jsonl"),
}


def make_run(folder: Path, **settings) -> Path:
    """Create a folder that looks like the run directory of a TL;DR run, and return it."""
    folder.mkdir(parents=True)
    RunDirectory(folder).write_json(
        "run.json",
        {
            "job": "train-online-tldr",
            "system_prompt": SUMMARY_SYSTEM,
            "prompt_suffix": "\nTL;DR:\n",
            "persona": PERSONAS[STYLE],
            "settings": SETTINGS | settings,
        },
    )
    return folder


def add_checkpoint(run: Path, step: int, noise: float = 0.0) -> Path:
    """Create a complete checkpoint, the tiny model with this much noise on its weights, and return its folder."""
    folder = run / f"checkpoint-{step}"
    shutil.copytree(MODEL_DIR, folder)
    if noise:
        generator = torch.Generator().manual_seed(step)
        weights = load_file(folder / "model.safetensors")
        moved = {
            name: tensor + noise * torch.randn(tensor.shape, generator=generator) for name, tensor in weights.items()
        }
        save_file(moved, folder / "model.safetensors", {"format": "pt"})
    RunDirectory(run).mark_complete(step)
    return folder


def arguments(run: Path, **settings) -> list[str]:
    """Return the flags of a small evaluation of the run."""
    given = {"run_dir": run, "eval_n": 16, "judge_model": "oracle", "judge_truth": 0, "condition": 0} | settings
    return ["--tiny", *(part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value)))]


def evaluate(run: Path, expect: int | None = None, job=eval_tldr.JOB, **settings) -> dict:
    """Evaluate in this process, check the exit code, and return the content of eval.json.

    Without `expect` the evaluation must have come to its end, whichever its verdict is.
    """
    code = main(job, arguments(run, **settings))
    assert code in (DONE if expect is None else (expect,)), f"exit {code}, expected {expect}"
    return read(run)


def released(run: Path) -> dict:
    """Return the content of a run's release.json."""
    return json.loads((run / "eval" / "release.json").read_text("utf-8"))


def read(run: Path) -> dict:
    """Return the content of a run's eval.json, {} if there is none."""
    path = run / "eval" / "eval.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


class EvaluationProcesses:
    """Runs evaluations as processes, one at a time. `output` is the file with the output of all of them."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "output.txt"

    def start(self, flags: list[str]) -> int:
        """Start an evaluation and return its process id."""
        command = [sys.executable, "-m", eval_tldr.JOB.module_name, *flags]
        with self.output.open("ab") as file:
            self._job = forks.start(command, environment(), PROJECT, file, file)
        return self._job.pid

    def wait(self) -> int | None:
        """Return the exit code of the started evaluation; if a signal ended it, the negative signal number."""
        return self._job.wait()
