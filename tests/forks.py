"""Jobs as processes of their own that start at once: forked from one that has imported what jobs import.

Importing takes a job of the tiny world as long as its work does. Tests of starting, signals and kills use real ones.
"""

import array
import atexit
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from threading import Lock
from typing import IO

PRELOADED = (
    "matplotlib.figure", "scipy.optimize", "wandb.sdk.launch.inputs.internal", "jobs.eval_tldr",
    "sdpo.evaluate.session", "sdpo.evaluate.pairs_page", "sdpo.evaluate.win_rate_figure", "sdpo.report",
    "sdpo.train.figures", "sdpo.train.model_card", "sdpo.train.offline.session", "sdpo.train.online.session",
)  # fmt: skip
# Variables that are read when a module is imported, or by the interpreter.
_READ_AT_IMPORT = (
    "ACCELERATE", "CUDA", "DATASETS", "HF_", "HUGGINGFACE", "LD_", "MALLOC", "MKL", "MPL", "OMP", "PYTHON",
    "TOKENIZERS", "TORCH", "TRANSFORMERS", "TRL",
)  # fmt: skip
_LATER = {"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}  # taken over by the child, or without effect on it
_ROOT = Path(__file__).parents[1]
_ENVIRONMENT = os.environ | {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"}  # the server's, not that of a test


class Job:
    """A job that was started; `pid` is its process."""

    def __init__(self, status: IO[str]) -> None:
        self._status = status
        self._session, self.pid = map(int, status.readline().split())

    def wait(self, timeout: float | None = None) -> int | None:
        """Return the exit code, the negative number of a signal that ended the job, or None if that takes longer."""
        ready, _, _ = select.select([self._status], [], [], timeout)
        if not ready:
            return None
        with self._status:
            return int(self._status.readline())

    def kill(self) -> None:
        """End the job and what it started."""
        os.killpg(self._session, signal.SIGKILL)
        self._status.close()


def start(command: list[str], env: dict[str, str], cwd: Path | str, out: IO[bytes], err: IO[bytes]) -> Job:
    """Start `python -m jobs.NAME ...` with these files as its output and its errors."""
    request = {"module": command[2], "arguments": command[3:], "env": env, "cwd": str(cwd)}
    reading, writing = os.pipe()
    _server().start(request, (out.fileno(), err.fileno(), writing))
    os.close(writing)
    return Job(os.fdopen(reading))


def run(
    command: list, *, env: dict[str, str], cwd: Path | str | None = None, timeout: float | None = None
) -> subprocess.CompletedProcess:
    """Do what subprocess.run does with captured text; a command `python -m jobs.NAME ...` is forked.

    It is a process started as usual if a variable differs that is read at import.
    """
    words = [str(word) for word in command]
    is_job = words[:2] == [sys.executable, "-m"] and words[2].startswith("jobs.")
    if not is_job or _at_import(env) != _at_import(_ENVIRONMENT):
        return subprocess.run(words, env=env, cwd=cwd, timeout=timeout, capture_output=True, text=True)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        job = start(words, env, cwd or Path.cwd(), out, err)
        if (code := job.wait(timeout)) is None:
            job.kill()
        texts = [_text(file) for file in (out, err)]
    if code is None:
        raise subprocess.TimeoutExpired(words, timeout or 0, *texts)
    return subprocess.CompletedProcess(words, code, *texts)


def _text(file: IO[bytes]) -> str:
    """Return the content of a file as subprocess returns text: with one kind of line ends."""
    file.seek(0)
    return file.read().decode().replace("\r\n", "\n").replace("\r", "\n")


def _at_import(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(_READ_AT_IMPORT) and name not in _LATER}


class _Server:
    """The process that forks, from this one's first job to its end."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        self.lock = Lock()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks", str(theirs.fileno())], cwd=_ROOT, env=_ENVIRONMENT,
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        theirs.close()
        atexit.register(self.socket.close)

    def start(self, request: dict, files: tuple[int, int, int]) -> None:
        """Have a job forked with these files as its output, its errors and the pipe that `_supervise` writes to."""
        message = json.dumps(request).encode()
        with self.lock:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
            self.socket.sendmsg([len(message).to_bytes(8, "big")], rights)
            self.socket.sendall(message)


@cache
def _server() -> _Server:
    return _Server()


# In the server


def serve(requests: socket.socket) -> None:
    """Fork a job for each request until the other end is closed."""
    for name in PRELOADED:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that wait for jobs
    while True:
        length, files, _, _ = socket.recv_fds(requests, 8, 3)
        if not length:
            return
        message = requests.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL)
        if os.fork() == 0:
            requests.close()
            _supervise(json.loads(message), *files)
        for file in files:
            os.close(file)


def _supervise(request: dict, out: int, err: int, status: int) -> None:
    """Run the job in a session of its own; write the session, the job's process and its exit code.

    Only the job returns from here.
    """
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    job = os.fork()
    if job:
        os.write(status, f"{os.getpid()} {job}\n".encode())
        _, ended = os.waitpid(job, 0)
        os.write(status, f"{os.waitstatus_to_exitcode(ended)}\n".encode())
        os._exit(0)
    os.close(status)
    for file, number in ((out, 1), (err, 2)):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["env"])
    if "PYTHONUNBUFFERED" in os.environ:
        sys.stdout.reconfigure(write_through=True)
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in os.environ
    os.chdir(request["cwd"])
    sys.path[0] = request["cwd"]
    sys.argv = [request["module"], *request["arguments"]]
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    sys.exit(0)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
