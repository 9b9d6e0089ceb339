"""GPUs by name: the makers' figures, and what was measured of the share that a training step reaches."""

import subprocess
from contextlib import suppress
from dataclasses import dataclass

from sdpo.runtime.processes import visible_gpus

GB, GIB = 1e9, 2**30


# The dense bf16 peak in TFLOP/s, from the makers' data sheets, by a part of the name that torch reports. The first
# match counts.
PEAKS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}


@dataclass(frozen=True)
class Device:
    """A GPU: its dense bf16 peak in FLOP/s and its memory's bandwidth in bytes/s, from the makers' data sheets."""

    name: str
    peak: float
    bandwidth: float


DEVICES = (
    Device("RTX 4090", PEAKS["RTX 4090"] * 1e12, 1008e9),
    Device("A100 40 GB", PEAKS["A100"] * 1e12, 1555e9),
    Device("A100 80 GB", PEAKS["A100"] * 1e12, 2039e9),
    Device("H100", PEAKS["H100"] * 1e12, 3350e9),
    Device("H200", PEAKS["H200"] * 1e12, 4800e9),
)
# The sizes that a plan is made for: GB as sold -> bytes that a process can take.
SIZES = {24: 23.5 * GIB, 40: 39.4 * GIB, 80: 79.2 * GIB, 141: 139.7 * GIB}

# What the driver, torch's libraries and NCCL take on a device, and the share of memory that is lost between tensors.
CONTEXT, LOST = 1e9, 0.05

# Measured on one H200 (docs/gpu.md). A product of matrices reaches this share of the peak.
MATRIX_SHARE = 0.81
# A small model's step is bound by launching kernels: seconds a layer for a micro-batch, and for a generated token, with
# all weights trained and with an adapter. Qwen3-0.6B's shape: 0.323 and 0.471 s a step, 8 tokens in 32 and 92 ms.
LAUNCH = {False: 0.323 / 28, True: 0.471 / 28}
LAUNCH_TOKEN = {False: 8 / 249 / 28, True: 8 / 87 / 28}

# The share of a GPU that vLLM reserves beside the trainer, for its copy of the weights and its cache: TRL's default.
VLLM_SHARE = 0.3


def gpus_here() -> list[float]:
    """Return the memory in bytes of each visible GPU of this machine; nothing if they do not say."""
    gpus = visible_gpus()
    if not gpus:
        return []
    line = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits", f"--id={','.join(gpus)}"]
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        answer = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
        return [int(size) * float(2**20) for size in answer.stdout.split()]
    return []
