"""What an objective costs: seconds and peak memory of look back, loss and backward, against the token objective's.

    python -m benchmarks.objectives [--batch 4] [--repeats 5]

The shapes are those of benchmarks/scoring.py; each objective runs in a process of its own.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from random import Random

import torch

from benchmarks.scoring import build_model, draw_rows
from sdpo.objective import Objective
from sdpo.train.loss import Contexts, HindsightLoss
from sdpo.train.teacher import Teacher

OBJECTIVES = {
    "token": Objective(),
    "full": Objective(kind="full"),
    "full, jsd": Objective(kind="full", direction="jsd"),
    "top_k": Objective(kind="top_k"),
    "token, null contrast": Objective(null_contrast=True),
}


def measure(name: str, batch: int, repeats: int) -> dict[str, float]:
    """Return the median seconds of a step, and the process's peak memory over what it had before, in GB."""
    torch.set_num_threads(2)
    model, rng = build_model(), Random(0)
    loss = HindsightLoss(Teacher("live", model), OBJECTIVES[name], batch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(repeats):
        prompts, hindsight, completions = draw_rows(rng, batch)
        contexts = [Contexts(bare, shown, shown) for bare, shown in zip(prompts, hindsight, strict=True)]
        started = time.perf_counter()
        targets = loss.look_back(contexts, completions)
        loss.loss(model, contexts, completions, targets, torch.ones(batch)).loss.backward()
        times.append(time.perf_counter() - started)
        model.zero_grad()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": statistics.median(times), "peak_gb": (peak - before) / 1e6}


def main() -> None:
    """Measure each objective and print what it costs beside the token objective."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--objective", choices=list(OBJECTIVES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.objective:
        print(json.dumps(measure(arguments.objective, arguments.batch, arguments.repeats)))
        return
    sizes = ["--batch", str(arguments.batch), "--repeats", str(arguments.repeats)]
    token = None
    for name in OBJECTIVES:
        command = [sys.executable, "-m", "benchmarks.objectives", "--objective", name, *sizes]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        token = token or found
        ratios = [found[part] / token[part] for part in ("seconds", "peak_gb")]
        print(
            f"{name:22} {found['seconds']:6.2f} s ({ratios[0]:.2f} x)   {found['peak_gb']:5.2f} GB ({ratios[1]:.2f} x)",
            flush=True,
        )


if __name__ == "__main__":
    main()
