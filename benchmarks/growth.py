"""How cost grows: with the batch, the completion's length, the vocabulary, the rows of a log, and requests at once.

    python -m benchmarks.growth [--only length,rows] [--picture docs/growth.png]

For each size the processor time, what is held in memory, or the requests a second, and over the upper half of the sizes
the slope of a log-log fit: 1 is proportional, 0 does not grow. The steps are those of `benchmarks.scoring`, two forward
passes and a backward one on a small model; their memory is that of tensors alive at once, weights and their gradients
left out. Rows are conversations of four messages through `make prep-logs`, in a process of its own. Requests go to a
local server that takes 0.2 s for each.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

import torch

from benchmarks.clients import serving
from benchmarks.counting import LiveBytes
from benchmarks.ratios import build_model as build_narrow
from benchmarks.ratios import slope
from benchmarks.scoring import build_model, draw_rows, trainer_step

# Run by a small process: the peak of a process that this one started would begin with this one's own memory.
_MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(code)
"""

Costs = dict[str, float]  # by what is measured, with its unit

SIZES = {
    "batch": [1, 2, 4, 8, 16],
    "length": [512, 1024, 2048, 4096, 8192],
    "vocabulary": [4_750, 9_500, 19_000, 38_000, 76_000, 152_000],
    "rows": [1_000, 10_000, 100_000, 1_000_000],
    "requests at once": [1, 4, 16, 64, 256],
}
REQUESTS = 512


def step_costs(step: Callable[[], None], weights: int) -> Costs:
    """Return the processor time of a step, the median of three, and the bytes alive at once without `weights` bytes."""
    times = []
    for _ in range(3):
        started = time.process_time()
        step()
        times.append(time.process_time() - started)
    with LiveBytes() as counted:
        step()
    return {"seconds": sorted(times)[1], "MB": max(0, counted.peak - weights) / 1e6}


def batch(rows: int) -> Costs:
    """Return the costs of a step of this many rows, with the lengths of real conversations."""
    model = build_model()
    model.requires_grad_(False).model.layers.requires_grad_(True)
    weights = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    return step_costs(lambda: _step(model, *draw_rows(Random(0), rows)), weights)


def length(tokens: int) -> Costs:
    """Return the costs of a step of one row with a completion of this many tokens."""
    model = build_narrow(4096)
    ids = [[5 + index % 4000 for index in range(tokens)]]
    return step_costs(lambda: _step(model, [[1, 2]], [[1, 3, 2]], ids), _bytes(model))


def vocabulary(words: int) -> Costs:
    """Return the costs of a step of two rows of 256 tokens with a vocabulary of this size."""
    model = build_narrow(words)
    ids = [[5 + index % 4000 for index in range(256)]] * 2
    return step_costs(lambda: _step(model, [[1, 2]] * 2, [[1, 3, 2]] * 2, ids), _bytes(model))


def _step(model: torch.nn.Module, prompts: list, hindsight: list, completions: list) -> None:
    trainer_step(model, prompts, hindsight, completions)  # type: ignore[arg-type]
    model.zero_grad()


def _bytes(model: torch.nn.Module) -> int:
    return sum(weight.nbytes for weight in model.parameters())


def rows(count: int) -> Costs:
    """Return the processor time and the peak memory of preparing a log of this many conversations."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "log.jsonl"
        with source.open("w", encoding="utf-8") as file:
            for number in range(count):
                said = [f"Question {number}?", "An answer. " * 20, "Shorter, please.", "Fine. " * 5]
                messages = [
                    {"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(said)
                ]
                file.write(json.dumps({"id": f"c{number}", "messages": messages}) + "\n")
        command = [sys.executable, "-m", "jobs.prep_logs", "--input", str(source), "--out-dir", f"{folder}/out"]
        measured = subprocess.run(
            [sys.executable, "-c", _MEASURE, *command],
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        if measured.returncode:
            raise SystemExit(f"prep-logs ended with {measured.returncode}")
    seconds, peak = map(float, measured.stdout.split())
    return {"seconds": seconds, "MB": peak / 1e3}


def requests_at_once(root: str, concurrency: int) -> Costs:
    """Return how many requests a second a client has answered that keeps this many in flight."""
    from sdpo.llm import Client, OpenAIBackend, Reply, Request
    from sdpo.text.prompts import PERSONAS, user_messages

    count = min(REQUESTS, 16 * concurrency)
    sent = [Request(user_messages(PERSONAS["no_emojis"], "Hello.", f"Answer {n}."), 0.7, 64) for n in range(count)]
    started = time.perf_counter()
    replies = Client(OpenAIBackend(f"{root}/v1", "m"), concurrency).complete(sent)
    assert all(isinstance(reply, Reply) for reply in replies)
    return {"requests a second": count / (time.perf_counter() - started)}


def measured(only: list[str]) -> Iterator[tuple[str, int, Costs]]:
    """Yield what grows, its size and the costs, as they are measured."""
    with serving(0.2) as (_, root):
        measures: dict[str, Callable[[int], Costs]] = {
            "batch": batch, "length": length, "vocabulary": vocabulary, "rows": rows,
            "requests at once": partial(requests_at_once, root),
        }  # fmt: skip
        for name in only:
            for size in SIZES[name]:
                yield name, size, measures[name](size)


def slopes(points: list[tuple[int, Costs]]) -> Costs:
    """Return the slope of each cost over the upper half of the sizes."""
    upper = points[len(points) // 2 - (len(points) == 2) :]
    sizes = [size for size, _ in upper]
    return {cost: slope(sizes, [max(costs[cost], 1e-9) for _, costs in upper]) for cost in upper[0][1]}


def draw(found: dict[str, list[tuple[int, Costs]]], path: Path) -> None:
    """Draw each cost against the size, on logarithmic axes, a panel for each."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    panels = [(name, cost) for name, points in found.items() for cost in points[0][1]]
    figure = Figure(figsize=(3 * ((len(panels) + 1) // 2), 5.4), layout="constrained")
    for axes, (name, cost) in zip(figure.subplots(2, (len(panels) + 1) // 2).flat, panels, strict=False):
        points = found[name]
        found_costs = [costs[cost] for _, costs in points]
        axes.loglog([size for size, _ in points], found_costs, marker="o")
        # A decade at least, so that what does not grow looks flat.
        middle = (min(found_costs) * max(found_costs)) ** 0.5
        axes.set_ylim(min(axes.get_ylim()[0], middle / 4), max(axes.get_ylim()[1], middle * 4))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(numticks=8))
            axis.set_minor_formatter(NullFormatter())
        axes.set(xlabel=name, ylabel=cost, title=f"slope {slopes(points)[cost]:.2f}")
        axes.grid(alpha=0.3)
    for axes in figure.axes[len(panels) :]:
        axes.remove()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, print a line for each size and the slopes, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SIZES), help="what grows, separated by commas")
    parser.add_argument("--picture", type=Path, help="the file for the picture; if not set, none is drawn")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[tuple[int, Costs]]] = {}
    for name, size, costs in measured([name.strip() for name in given.only.split(",")]):
        found.setdefault(name, []).append((size, costs))
        print(
            f"{name:17} {size:>9,}  " + "   ".join(f"{value:10.3f} {cost}" for cost, value in costs.items()), flush=True
        )
    for name, points in found.items():
        print(f"slope by {name:17} " + "   ".join(f"{value:.2f} {cost}" for cost, value in slopes(points).items()))
    if given.picture:
        draw(found, given.picture)


if __name__ == "__main__":
    main()
