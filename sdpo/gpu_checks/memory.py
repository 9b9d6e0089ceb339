"""The check that a run which runs out of the GPU's memory ends in one line that says what to lower."""

from sdpo.errors import OutOfMemory
from sdpo.gpu_checks.outcome import Figures, Place, require
from sdpo.gpu_checks.runs import OFFLINE_JOB, command, run

# Runs a job in a process that may take so many bytes of the GPU's memory.
_LIMITED = """
import importlib, sys, torch
limit, module = int(sys.argv[1]), sys.argv[2]
torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
from sdpo.runtime.launch import main
raise SystemExit(main(importlib.import_module(module).JOB, sys.argv[3:]))
"""
_LIMIT = 100 * 2**20  # the tiny model and its optimizer take 20 MB; 256 rows of activations take more than the rest
_ROWS = 256


def check_out_of_memory(place: Place) -> Figures:
    """Run a step that does not fit. Raises CheckFailed unless it ends in one line that names settings."""
    settings = {"bs": _ROWS, "train_n": _ROWS, "gradient_checkpointing": 0, "layout": "packed"}
    _, module, *flags = command(OFFLINE_JOB, place.folder / "run", **settings)
    output = run(["-c", _LIMITED, str(_LIMIT), module, *flags], expect=OutOfMemory.exit_code)
    require("Traceback" not in output, "the output has a traceback")
    lines = [line for line in output.splitlines() if line.startswith("error:")]
    require(len(lines) == 1, f"{len(lines)} lines of error instead of one")
    for name in ("BS=", "GA=", "GRADIENT_CHECKPOINTING=1", "ADAPTER=lora"):
        require(name in lines[0], f"the line does not name {name.rstrip('=')}: {lines[0]}")
    return {"line": lines[0]}
