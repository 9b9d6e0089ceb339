"""Short training runs on the tiny world's model and data by the real jobs, on a GPU if there is one.

TINY=1 would hide the GPU, so what a run needs of the tiny world's settings is given here.
"""

import json
import math
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from sdpo.gpu_checks.outcome import CheckFailed, Figures, Place, require
from sdpo.gpu_checks.runner import environment
from sdpo.tiny import MODEL_DIR, STYLES_FILE, WORLD_DIR

STEPS, ROWS = 4, 8
_DATA = WORLD_DIR / "data"
_COMMON = {
    "model": MODEL_DIR, "lr": 2.5e-4, "bs": ROWS, "ga": 1, "gpus": 1, "train_n": STEPS * ROWS,
    "max_completion_tokens": 48, "hindsight_template": "framed", "save_steps": 1, "log_steps": 1, "seed": 5,
    "optimizer": "adamw",
}  # fmt: skip
_ONLINE = {
    "train_jsonl": _DATA / "train.jsonl", "val_jsonl": _DATA / "validation.jsonl", "style": "no_emojis",
    "style_file": STYLES_FILE, "user_model_name_or_path": "rule", "user_trial": "off",
}  # fmt: skip
_OFFLINE: dict[str, Any] = {
    "train_jsonl": _DATA / "interactions.jsonl",
    "val_jsonl": _DATA / "interactions_validation.jsonl",
}
_OFFLINE |= {"epochs": 1, "warmup": 0}
ONLINE_JOB, OFFLINE_JOB = "train_online_tldr", "train_offline"


def command(job: str, out: Path, **settings: Any) -> list[str]:
    """Return the arguments of a short run of a training job that writes to `out`."""
    given = _COMMON | (_ONLINE if job == ONLINE_JOB else _OFFLINE) | {"output_dir": out} | settings
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return ["-m", f"jobs.{job}", *flags]


def run(arguments: Sequence[str], expect: int = 0) -> str:
    """Run Python with these arguments and return its output. Raises CheckFailed for another exit code than expected.

    The output also goes to the check's log.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    print(done.stdout, flush=True)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    if done.returncode != expect:
        errors = [line for line in lines if re.match(r"(error:|[\w.]*(Error|Exception)\b)", line)]
        last = (errors or lines or ["(no output)"])[-1]
        raise CheckFailed(f"exit code {done.returncode} instead of {expect}: {last}")
    return done.stdout


def rows_of(out: Path) -> list[dict]:
    """Return the rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a model or an adapter in this folder by name."""
    files = sorted(folder.glob("*model*.safetensors"))
    require(bool(files), f"{folder.name} has no weights")
    return {name: weight for file in files for name, weight in load_file(file).items()}


def change(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
    """Return the norm of the difference of two models' weights. Raises CheckFailed if their names differ."""
    require(set(before) == set(after), f"other weights: {sorted(set(before) ^ set(after))[:3]}")
    total = sum((after[name].double() - before[name].double()).square().sum().item() for name in before)
    return math.sqrt(total)


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> int:
    """Return how many of the tensors that both have differ."""
    return sum(not torch.equal(before[name], after[name].to(before[name].dtype)) for name in before.keys() & after)


def check_steps(out: Path, steps: int = STEPS) -> Figures:
    """Return the figures of a finished run's steps. Raises CheckFailed unless there are so many, with finite losses."""
    rows = rows_of(out)
    require(len(rows) == steps, f"{len(rows)} steps instead of {steps}")
    for row in rows:
        for name in ("loss", "signal_size", "entropy"):
            require(math.isfinite(row[name]), f"{name} of step {row['step']} is {row[name]}")
    require(rows[0]["signal_size"] > 0, "no follow-up moves any token")
    last = rows[-1]
    return {
        "steps": len(rows),
        "signal_size": rows[0]["signal_size"],
        "entropy": rows[0]["entropy"],
        "loss": last["loss"],
        "seconds_per_step": sum(sum(row["seconds"].values()) for row in rows[1:]) / max(1, len(rows) - 1),
        "peak_memory_gb": last["peak_memory_gb"],
    }


def check_all_trained(out: Path, steps: int = STEPS) -> Figures:
    """Return `check_steps` and how many of the model's tensors changed. Raises CheckFailed unless all did."""
    figures = check_steps(out, steps)
    before, after = weights(MODEL_DIR), weights(out / f"checkpoint-{steps}")
    count = changed(before, after)
    common = len(before.keys() & after)
    require(count == common > 0, f"{count} of {common} tensors changed", figures)
    finite = all(bool(torch.isfinite(weight).all()) for weight in after.values())
    require(finite, "a weight is not finite", figures)
    return figures | {"changed_tensors": f"{count} of {common}"}


def precision(place: Place) -> Figures:
    """Return what PRECISION=auto means here."""
    return {"precision": "bf16" if place.on_gpu else "fp32"}
