"""The device: what it is, what it can do at most, and what a product of matrices reaches."""

import subprocess
import time
from contextlib import suppress
from typing import Any

import torch

from sdpo.gpu_checks.outcome import Figures, Place, require
from sdpo.plan.devices import PEAKS


def facts() -> dict[str, Any]:
    """Return kind (cuda or cpu), name, count, memory, peak and driver of the device."""
    if not torch.cuda.is_available():
        return {"kind": "cpu", "name": "the CPU", "count": 0, "threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(0)
    return {
        "kind": "cuda",
        "name": properties.name,
        "count": torch.cuda.device_count(),
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "capability": f"{properties.major}.{properties.minor}",
        "peak_tflops": peak_tflops(),
        "cuda": torch.version.cuda,
        "driver": _driver(),
    }


def peak_tflops() -> float | None:
    """Return the device's dense bf16 peak in TFLOP/s, None if it is not known."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name(0)
    return next((peak for part, peak in PEAKS.items() if part in name), None)


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        return done.stdout.strip() or None
    return None


def synchronize(device: str) -> None:
    """Wait until the device has done all that it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def check_device(place: Place) -> Figures:
    """Return the TFLOP/s of a square product in bf16, after comparing a small one with float64."""
    generator = torch.Generator(place.device).manual_seed(0)
    small = torch.randn(256, 256, device=place.device, generator=generator, dtype=torch.bfloat16)
    error = ((small @ small).double() - small.double() @ small.double()).abs().max().item()
    require(error < 1.0, f"a bf16 product of 256 x 256 is {error:.3g} off that in float64, expected under 1")
    size, repeats = (8192, 20) if place.on_gpu else (256, 3)
    left = torch.randn(size, size, device=place.device, generator=generator, dtype=torch.bfloat16)
    seconds = 0.0
    for counted in (False, True):  # the first round warms up
        synchronize(place.device)
        started = time.perf_counter()
        for _ in range(repeats):
            left @ left
        synchronize(place.device)
        seconds = time.perf_counter() - started if counted else 0.0
    tflops = 2 * size**3 * repeats / seconds / 1e12
    peak = peak_tflops()
    return {"size": size, "tflops": tflops, **({"share_of_peak": tflops / peak} if peak else {})}
