"""`accelerate launch`, for `processes.py`: a process that fails costs at most a line, not the launcher's tracebacks."""

import logging
import subprocess
import sys

from accelerate.commands.launch import main as launch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main() -> int:
    """Launch as the command line says, and return an exit code; what a process had to say it has said itself."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        launch()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            killed = " Was there memory enough?" if failure.signal_name() == "SIGKILL" else ""
            print(f"error: process {rank} was ended by {failure.signal_name()}.{killed}", file=sys.stderr, flush=True)
        return 1
    except subprocess.CalledProcessError:  # of a single process
        return 1
    except SignalException as ended:
        return 128 + ended.sigval
    return 0


if __name__ == "__main__":
    sys.exit(main())
