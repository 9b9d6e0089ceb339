"""Runs checks, each in a process of its own with a time limit, within a budget of seconds for all."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import sdpo
from sdpo import settings as settings_module
from sdpo.gpu_checks.outcome import FAILED, NOT_RUN
from sdpo.gpu_checks.registry import Check
from sdpo.runtime import processes
from sdpo.settings.resolve import MAKE_VARIABLES

_POLL_SECONDS = 0.05
_LOG_TAIL = 4000  # characters

Result = dict[str, Any]


@dataclass
class _Running:
    check: Check
    process: subprocess.Popen
    limit: float
    cut_by_budget: bool
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started


class Runner:
    """Runs checks in order, up to `at_once` at a time; one that is `alone` never beside another.

    `device` is cuda or cpu. `folder` gets NAME.log of each check, and while a check runs NAME/, its scratch folder.
    `check_seconds` replaces each check's own limit.
    """

    def __init__(
        self, device: str, folder: Path, budget: float, at_once: int, check_seconds: float | None = None
    ) -> None:
        self.device, self.folder, self.budget = device, folder, budget
        self.at_once, self.check_seconds = at_once, check_seconds

    def run(self, checks: Sequence[Check], finished: Callable[[Result], None]) -> None:
        """Run the checks; `finished` is called with each one's name, status, reason, seconds and figures."""
        waiting, running, started = list(checks), list[_Running](), time.monotonic()
        try:
            while waiting or running:
                for item in [item for item in running if self._has_ended(item)]:
                    running.remove(item)
                    finished(self._result(item))
                while waiting and self._may_start(waiting[0], running):
                    check, left = waiting.pop(0), max(0.0, self.budget - (time.monotonic() - started))
                    if left < check.expected:
                        reason = f"{left:.0f} s of BUDGET_SECONDS are left, and it takes about {check.expected:.0f}"
                        finished(_result_of(check, NOT_RUN, reason))
                    else:
                        running.append(self._start(check, left))
                time.sleep(_POLL_SECONDS if running else 0)
        finally:
            for item in running:
                _kill(item.process)

    def _may_start(self, check: Check, running: Sequence[_Running]) -> bool:
        if not running:
            return True
        return not check.alone and not any(item.check.alone for item in running) and len(running) < self.at_once

    def _start(self, check: Check, left: float) -> _Running:
        scratch = self.folder / check.name
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        self._result_file(check).unlink(missing_ok=True)
        command = [sys.executable, "-m", "sdpo.gpu_checks.worker", check.function, self.device]
        command += [str(scratch), str(self._result_file(check))]
        limit = self.check_seconds or check.limit
        with self._log(check).open("wb") as log:
            process = subprocess.Popen(
                command, cwd=scratch, env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        return _Running(check, process, min(limit, left), cut_by_budget=left < limit)

    def _has_ended(self, item: _Running) -> bool:
        return item.process.poll() is not None or item.seconds > item.limit

    def _result(self, item: _Running) -> Result:
        """Return the result of a check that has ended, or that is over its limit and is ended here."""
        check, seconds = item.check, item.seconds
        over = item.process.poll() is None
        _kill(item.process)  # also what it has left running
        content: dict[str, Any]
        if over and item.cut_by_budget:
            content = {"status": NOT_RUN, "reason": "BUDGET_SECONDS ended before it did", "figures": {}}
        elif over:
            reason = f"ended after {item.limit:.0f} s, its limit; {self._log(check)} has its output"
            content = {"status": FAILED, "reason": reason, "figures": {}}
        else:
            content = self._written(item)
        self._result_file(check).unlink(missing_ok=True)
        shutil.rmtree(self.folder / check.name, ignore_errors=True)
        log = self._log(check).read_text("utf-8", "replace")[-_LOG_TAIL:] if content["status"] == FAILED else None
        return _result_of(check, **content, seconds=round(seconds, 1)) | ({"log": log} if log else {})

    def _written(self, item: _Running) -> dict[str, Any]:
        try:
            return json.loads(self._result_file(item.check).read_text("utf-8"))
        except (OSError, ValueError):
            code = item.process.returncode
            how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
            reason = f"its process {how} without a result; {self._log(item.check)} has its output"
            return {"status": FAILED, "reason": reason, "figures": {}}

    def _log(self, check: Check) -> Path:
        return self.folder / f"{check.name}.log"

    def _result_file(self, check: Check) -> Path:
        return self.folder / f".{check.name}.json"


def environment() -> dict[str, str]:
    """Return an environment without this job's settings, without a network, and with the project on PYTHONPATH."""
    left_out = {name.upper() for name in settings_module.known_names()} | {MAKE_VARIABLES, processes.EXIT_FILE_VARIABLE}
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    path = os.pathsep.join([str(Path(sdpo.__file__).parents[1]), *filter(None, [kept.get("PYTHONPATH")])])
    own = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "WANDB_MODE": "disabled", "TOKENIZERS_PARALLELISM": "false"}
    return kept | own | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def _result_of(
    check: Check, status: str, reason: str, figures: dict[str, Any] | None = None, seconds: float = 0.0
) -> Result:
    return {
        "name": check.name,
        "what": check.what,
        "status": status,
        "reason": reason,
        "seconds": seconds,
        "figures": figures or {},
    }


def _kill(process: subprocess.Popen) -> None:
    """Kill a check's process with all that it has started, also in sessions of their own."""
    children: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, 9)
    process.wait()
