"""Checks that pass, fail, crash and hang, and a job that runs out of memory, for tests of what runs them."""

import os
import signal
import subprocess
import sys
import time

from sdpo.gpu_checks.outcome import CheckFailed, Figures, NotRun, Place

CHILD_FILE = "child"


def passes(place: Place) -> Figures:
    return {"device": place.device, "empty": not any(place.folder.iterdir()), "bs": os.environ.get("BS")}


def fails(place: Place) -> Figures:
    raise CheckFailed("3 tensors instead of 4", {"tensors": 3})


def raises(place: Place) -> Figures:
    raise ValueError("no\nsuch thing")


def cannot_run(place: Place) -> Figures:
    raise NotRun("no such library")


def crashes(place: Place) -> Figures:
    print("the last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def naps(place: Place) -> Figures:
    start = time.time()
    time.sleep(2)
    return {"start": start, "end": time.time()}


def hangs(place: Place) -> Figures:
    """Start a process in a session of its own, write its id beside the scratch folder, and do not end."""
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    child = subprocess.Popen(command, start_new_session=True)
    (place.folder.parent / CHILD_FILE).write_text(str(child.pid))
    time.sleep(600)
    return {}


def run_out_of_memory(settings, job) -> int:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79 GiB")
