"""Runs one check in this process: `python -m sdpo.gpu_checks.worker module:function DEVICE FOLDER RESULT`.

The result is a JSON file with status, reason and figures. It is written for every exception, so a missing file means
that the process was ended from outside or crashed.
"""

import importlib
import json
import sys
import traceback
from pathlib import Path
from typing import Any

from sdpo.errors import one_line
from sdpo.gpu_checks.outcome import FAILED, NOT_RUN, PASSED, CheckFailed, NotRun, Place
from sdpo.runtime.files import replace_file


def outcome_of(reference: str, place: Place) -> dict[str, Any]:
    """Return status, reason and figures of the check that `reference` ("module:function") names."""
    module, _, name = reference.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
        if "transformers" in sys.modules:
            from sdpo.models.pretrained import silence_libraries

            silence_libraries()
        figures = function(place)
    except NotRun as error:
        return {"status": NOT_RUN, "reason": one_line(error), "figures": {}}
    except CheckFailed as error:
        return {"status": FAILED, "reason": one_line(error), "figures": error.figures}
    except Exception as error:
        traceback.print_exc()  # the check's log keeps it
        return {"status": FAILED, "reason": f"{type(error).__name__}: {one_line(error)}", "figures": {}}
    return {"status": PASSED, "reason": "", "figures": figures}


def main(arguments: list[str]) -> int:
    """Run the check and write its result; return 0 whatever the result is."""
    reference, device, folder, result = arguments
    outcome = outcome_of(reference, Place(device, Path(folder)))
    replace_file(Path(result), (json.dumps(outcome, ensure_ascii=False, default=str) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
