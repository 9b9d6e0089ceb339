"""Runs `accelerate launch` for `processes.py`: a failed process prints at most one line, no tracebacks."""

import logging
import subprocess
import sys

from accelerate.commands.launch import main as launch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main() -> int:
    """Run the launch command line and return an exit code. The processes print their own errors."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        launch()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            killed = " It may have run out of memory." if failure.signal_name() == "SIGKILL" else ""
            print(f"error: process {rank} was killed by {failure.signal_name()}.{killed}", file=sys.stderr, flush=True)
        return 1
    except subprocess.CalledProcessError:  # raised for a single process
        return 1
    except SignalException as error:
        return 128 + error.sigval
    return 0


if __name__ == "__main__":
    sys.exit(main())
