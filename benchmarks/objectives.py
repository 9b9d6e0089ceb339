"""The cost of each objective: seconds and peak memory of hindsight scoring, loss and backward pass.

    python -m benchmarks.objectives [--batch 4] [--repeats 5]

The token objective is the reference. The shapes are those of benchmarks/scoring.py; each objective runs in a process
of its own.
"""

from collections.abc import Callable, Iterator
from functools import partial
from random import Random

import torch

from benchmarks.scoring import build_model, draw_rows
from benchmarks.variants import compare, timed
from sdpo.method.loss import Contexts, HindsightLoss
from sdpo.method.objective import Objective
from sdpo.method.teacher import Teacher

OBJECTIVES = {
    "token": Objective(),
    "full": Objective(kind="full"),
    "full, jsd": Objective(kind="full", direction="jsd"),
    "top_k": Objective(kind="top_k"),
    "token, null contrast": Objective(null_contrast=True),
}


def measure(name: str, batch: int, repeats: int) -> dict[str, float]:
    """Return the median seconds of a step and the increase of the process's peak memory in GB."""
    torch.set_num_threads(2)
    model, rng = build_model(), Random(0)
    loss = HindsightLoss(Teacher("live", model), OBJECTIVES[name], batch)

    def step(contexts: list[Contexts], completions: list[list[int]]) -> None:
        targets = loss.teacher_targets(contexts, completions)
        loss.loss(model, contexts, completions, targets, torch.ones(batch)).loss.backward()

    def steps() -> Iterator[Callable[[], None]]:
        for _ in range(repeats):
            prompts, hindsight, completions = draw_rows(rng, batch)
            yield partial(step, [Contexts(x, xo, xo) for x, xo in zip(prompts, hindsight, strict=True)], completions)
            model.zero_grad()

    return timed(steps())


if __name__ == "__main__":
    compare("benchmarks.objectives", __doc__, list(OBJECTIVES), measure, batch=4, repeats=5)
