"""The job of `make check-gpu`: runs the checks, prints a table and writes gpu-checks.json. Importing this is cheap."""

import os
import time
from typing import TYPE_CHECKING, Any

from sdpo import progress
from sdpo.gpu_checks import registry
from sdpo.gpu_checks.outcome import FAILED, NOT_RUN, PASSED
from sdpo.gpu_checks.report import line, table
from sdpo.runtime.commands import command
from sdpo.runtime.ending import say

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import GpuCheckSettings

RESULTS = "gpu-checks.json"
# Checks that are not timed run beside each other on a GPU: each takes little of it, and mostly loads libraries.
_AT_ONCE, _CORES_EACH = 4, 3


def check(settings: "GpuCheckSettings", job: "Job") -> None:
    """Raise SettingError for an unknown check."""
    registry.chosen(settings.checks, registry.CHECKS)


def run(settings: "GpuCheckSettings", job: "Job") -> int:
    """Run the checks and return the exit code: 1 if one failed, else 0."""
    from sdpo.gpu_checks.device import facts
    from sdpo.gpu_checks.runner import Runner
    from sdpo.runtime.provenance import provenance
    from sdpo.runtime.run_directory import RunDirectory

    directory, started = RunDirectory(settings.run_directory_path), time.monotonic()
    directory.path.mkdir(parents=True, exist_ok=True)
    directory.lock()
    device, checks = facts(), registry.chosen(settings.checks, registry.CHECKS)
    on_gpu = device["kind"] == "cuda"
    content: dict[str, Any] = {**provenance(), "device": device, "budget_seconds": settings.budget_seconds}
    results: dict[str, dict] = {}
    at_once = max(1, min(_AT_ONCE, (os.cpu_count() or 1) // _CORES_EACH)) if on_gpu else 1
    print(f"{len(checks)} checks on {device['name']}, {settings.budget_seconds:g} s for all", flush=True)

    def finished(result: dict) -> None:
        results[result["name"]] = result
        print(line(result), flush=True)
        in_order = [results[item.name] for item in checks if item.name in results]
        seconds = round(time.monotonic() - started, 1)
        directory.write_json(RESULTS, {**content, "seconds": seconds, "checks": in_order})

    runnable = []
    for item in checks:
        if reason := item.missing(on_gpu):
            finished({"name": item.name, "what": item.what, "status": NOT_RUN, "reason": reason, "seconds": 0.0,
                      "figures": {}})  # fmt: skip
        else:
            runnable.append(item)
    runner = Runner(device["kind"], directory.path, settings.budget_seconds, at_once, settings.check_seconds)
    with progress.task("checks", len(runnable), "checks") as under:

        def ended(result: dict) -> None:
            finished(result)
            under.advance()

        runner.run(runnable, ended)
    in_order = [results[item.name] for item in checks]
    print(f"\n{table(in_order)}\n", flush=True)
    failed = [result["name"] for result in in_order if result["status"] == FAILED]
    then, why = command("check-gpu", checks=" ".join(failed)), "repeats what failed, after it is mended"
    say(f"{_counts(in_order)}.", {"results": directory.path / RESULTS}, then if failed else "", why if failed else "")
    return int(any(result["status"] == FAILED for result in in_order))


def _counts(results: list[dict]) -> str:
    statuses = [result["status"] for result in results]
    return ", ".join(f"{statuses.count(status)} {status}" for status in (PASSED, FAILED, NOT_RUN))
