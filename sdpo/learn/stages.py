"""The jobs that are stages of a night, each in a process of its own that ends with this one."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sdpo import progress
from sdpo import settings as settings_module
from sdpo.errors import AtWork, SdpoError
from sdpo.llm.server import end_with_parent
from sdpo.settings import LearnSettings, as_text
from sdpo.settings.resolve import MAKE_VARIABLES

STAGE_LOCK = ".stage.lock"
_STOP_SECONDS = 600  # for a step and a checkpoint
_SHOWN = 90  # characters of a job's last line
_PAUSE = 0.2
_TAIL_BYTES = 2000


class StageFailed(SdpoError):
    """A stage's job failed; the exit code is the job's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Stages:
    """Runs jobs one after another. Their output is in a log in `folder`, one per stage.

    Each process holds the folder's stage lock, so that one whose parent was killed is waited for.
    """

    def __init__(self, folder: Path, lock: IO[str], deadline: float | None = None) -> None:
        self.folder, self.deadline = folder, deadline
        self._lock = lock

    def run(
        self,
        job: str,
        values: Mapping[str, Any],
        allowed: Sequence[int] = (0,),
        may_end: Callable[[], bool] | None = None,
    ) -> tuple[int, bool]:
        """Run a job with these settings; return its exit code, and whether it was asked to end at the deadline.

        Raises StageFailed for a code that is not allowed. At the deadline a job with `may_end` is asked to end, once
        that returns True.
        """
        log = self.folder / f"{job}.log"
        command = [sys.executable, "-m", f"jobs.{job.replace('-', '_')}", *flags(values)]
        with log.open("ab") as file:
            start = file.tell()
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment(),
                start_new_session=True, pass_fds=(self._lock.fileno(),), preexec_fn=end_with_parent(signal.SIGTERM),
            )  # fmt: skip
        out_of_time = False
        try:
            with progress.task(job) as under:
                while process.poll() is None:
                    under.label = f"{job}{_said(_last_line(log, start), job)}"
                    late = self.deadline is not None and time.monotonic() > self.deadline
                    if late and not out_of_time and may_end is not None and may_end():
                        out_of_time = True
                        process.terminate()
                    time.sleep(_PAUSE)
        except BaseException:
            _end(process)
            raise
        code = process.returncode if process.returncode >= 0 else 128 - process.returncode
        if code not in allowed and not (out_of_time and code == 128 + signal.SIGTERM):
            raise StageFailed(f"{job} ended with code {code}: {_last_error(log, start)} (log: {log})", code)
        return code, out_of_time


@contextmanager
def stage_lock(folder: Path) -> Iterator[IO[str]]:
    """Hold the lock of a folder's stages; wait for a stage whose parent was killed."""
    with (folder / STAGE_LOCK).open("w") as file:
        waited = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if not waited:
                    print("waiting for a stage of an earlier process to end", flush=True)
                waited = True
                time.sleep(_PAUSE)
        yield file


def flags(values: Mapping[str, Any]) -> list[str]:
    """Return settings as flags; a setting that is None is left out."""
    given = {name: value for name, value in values.items() if value is not None}
    return [part for name, value in given.items() for part in (f"--{name.lower().replace('_', '-')}", as_text(value))]


def environment() -> dict[str, str]:
    """Return the environment for a stage: without the settings of this job, which would be the stage's too."""
    own = settings_module.by_any_name(settings_module.settings_of(LearnSettings))
    removed = {name.upper() for name, declared in own.items() if not declared.secret} | {MAKE_VARIABLES}
    return {name: value for name, value in os.environ.items() if name not in removed} | {"PYTHONUNBUFFERED": "1"}


def _end(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _last_line(log: Path, start: int) -> str:
    """Return the last line of a log after byte `start`."""
    with log.open("rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = file.read().decode("utf-8", "replace").split("\n")[:-1]  # the last one may be half written
    return next((line.strip() for line in reversed(lines) if line.strip()), "starting")


def _said(line: str, job: str) -> str:
    """Return what a line of a job's log adds to the job's name, in brackets: short, without name, parts and time."""
    text = re.sub(r" \(.*", "", " ".join(line.removeprefix(f"{job}: ").split()))
    if len(text) > _SHOWN:
        text = f"{text[:_SHOWN].rpartition(' ')[0]} …"
    return "" if re.fullmatch(r"[\d:]*", text) else f" ({text})"


def _last_error(log: Path, start: int) -> str:
    """Return the last line of a log that is an error, else its last line."""
    with log.open("rb") as file:
        file.seek(start)
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or ["it wrote nothing"])[-1][:400]


def learner_lock(registry: Path) -> IO[str]:
    """Return the lock of a registry's learner, held until it is closed. Raises AtWork if another process has it."""
    registry.mkdir(parents=True, exist_ok=True)
    file = (registry / ".learn.lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        holder = file.read().strip()
        file.close()
        raise AtWork(f"another learner works with {registry} ({holder or 'it just started'}). Wait for it.") from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {os.uname().nodename}, since {time.strftime('%Y-%m-%d %H:%M')}")
    file.flush()
    return file
