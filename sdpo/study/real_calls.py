"""What the parts of the study on real models share: the lists among its settings, and how jobs are run."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpo.errors import RunError
from sdpo.settings import as_text

if TYPE_CHECKING:
    from sdpo.settings import RealStudySettings


def items(value: str) -> list[str]:
    """Return the items of a list that is separated by commas."""
    return [item.strip() for item in value.split(",") if item.strip()]


def variants(settings: "RealStudySettings") -> Iterator[str]:
    """Yield the variants, each a text of NAME=value words."""
    return (variant.strip() for variant in settings.variants.split(";") if variant.strip())


def as_key(words: str) -> str:
    """Return a name that is safe for a folder."""
    return "".join(char if char.isalnum() or char in ".-" else "_" for char in words)


def is_bf16(settings: "RealStudySettings") -> bool:
    """Return whether models are loaded in bfloat16."""
    import torch

    return settings.precision == "bf16" or (settings.precision == "auto" and torch.cuda.is_available())


def flags(values: dict[str, Any]) -> list[str]:
    """Return settings as the flags of a job."""
    return [part for name, value in values.items() for part in (f"--{name.lower().replace('_', '-')}", as_text(value))]


def call(name: str, arguments: list[str], log: Path, allowed: tuple[int, ...] = (0,)) -> None:
    """Run a job on one core with its output in a file. Raises RunError with the last line if it failed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    with log.open("a") as file:
        done = subprocess.run(
            [sys.executable, "-m", f"jobs.{name.replace('-', '_')}", *arguments],
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    if done.returncode not in allowed:
        lines = log.read_text("utf-8", "replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        raise RunError(f"a run of the study failed, see {log}: {last}")
