"""Runs the variants of a benchmark, each in a process of its own, so that their peak memory can be compared."""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence


def timed(steps: Iterable[Callable[[], None]]) -> dict[str, float]:
    """Run the steps; return their median seconds and the increase of this process's peak memory in GB.

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
    """Return variant -> result of `measure(variant, **sizes)`, and print them relative to the first variant.

    The command line can override `sizes`. The process of a single variant prints its result as JSON and exits.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--variant", choices=list(variants), help=argparse.SUPPRESS)
    given = vars(parser.parse_args())
    if variant := given.pop("variant"):
        print(json.dumps(measure(variant, **given)))
        raise SystemExit
    flags = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    results: dict[str, dict[str, float]] = {}
    for name in variants:
        command = [sys.executable, "-m", module, "--variant", name, *flags]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results[name] = json.loads(done.stdout.splitlines()[-1])
        first = next(iter(results.values()))
        values = [f"{part} {value:.3f} ({value / first[part]:.2f} x)" for part, value in results[name].items()]
        print(f"{name:22} {'   '.join(values)}", flush=True)
    return results
