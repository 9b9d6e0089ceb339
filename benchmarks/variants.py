"""The sides of a comparison: each in a process of its own, so that its peak memory is its own."""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence


def timed(steps: Iterable[Callable[[], None]]) -> dict[str, float]:
    """Return the median seconds of the steps, and this process's peak memory over what it had before, in GB.

    What the iterable does between two steps is not timed.
    """
    before, times = _peak(), []
    for step in steps:
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return {"seconds": statistics.median(times), "peak_gb": (_peak() - before) / 1e6}


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def compare(
    module: str, doc: str, variants: Sequence[str], measure: Callable[..., dict[str, float]], **sizes: int
) -> dict[str, dict[str, float]]:
    """Return what `measure(side, **sizes)` says of each side. The command line may change the sizes.

    In the process of one side it prints that and ends.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--side", choices=list(variants), help=argparse.SUPPRESS)
    given = vars(parser.parse_args())
    if variant := given.pop("side"):
        print(json.dumps(measure(variant, **given)))
        raise SystemExit
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    found = {}
    for name in variants:
        command = [sys.executable, "-m", module, "--side", name, *words]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        first = next(iter(found.values()))
        values = [f"{part} {value:.3f} ({value / first[part]:.2f} x)" for part, value in found[name].items()]
        print(f"{name:22} {'   '.join(values)}", flush=True)
    return found
