"""A machine with GPUs for tests: a stand-in for nvidia-smi at the front of PATH."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest


def pretend_gpus(monkeypatch: pytest.MonkeyPatch, folder: Path, mebibytes: Sequence[int]) -> None:
    """Pretend that this machine has one GPU for each of these sizes, with a partition each, and all are visible."""
    rows = enumerate(mebibytes)
    listed = "".join(f"GPU {index}: NVIDIA (UUID: GPU-{index})\n  MIG 1g (UUID: MIG-{index})\n" for index, _ in rows)
    sizes = "".join(f"{size}\n" for size in mebibytes)
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nif [ \"$1\" = -L ]; then cat <<'END'\n{listed}END\nelse cat <<'END'\n{sizes}END\nfi\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
