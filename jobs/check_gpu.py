"""Checks, on a GPU, of what tests on a CPU cannot show: bf16, adapters, sharding, serving, memory and speed."""

from sdpo.runtime.launch import Job, main
from sdpo.settings import GpuCheckSettings

JOB = Job(
    name="check-gpu",
    summary="run what needs a GPU, each check in a process of its own, and measure steps by model size",
    settings=GpuCheckSettings,
    folder="gpu-checks",
    run="sdpo.gpu_checks.job:run",
    check="sdpo.gpu_checks.job:check",
)

if __name__ == "__main__":
    raise SystemExit(main(JOB))
