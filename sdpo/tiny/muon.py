"""Muon in float32: what the tiny model's matrices are trained with."""

from collections.abc import Iterable

import torch

# Keller Jordan's quintic iteration: five rounds bring every singular value to about one.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return the matrix with its singular values brought to between 0.7 and 1.2, in the matrix's own precision."""
    turned = matrix.size(0) > matrix.size(1)
    found = matrix.T if turned else matrix
    found = found / found.norm().clamp(min=1e-7)
    first, third, fifth = _COEFFICIENTS
    for _ in range(_ROUNDS):
        square = found @ found.T
        found = first * found + (third * square + fifth * square @ square) @ found
    return found.T if turned else found


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are made orthogonal (https://kellerjordan.github.io/posts/muon/), with decay of the weights.

    torch has one too, which iterates in bfloat16: on a CPU without units for that it took a third of a step, and
    this one a fifteenth.
    """

    def __init__(
        self, matrices: Iterable[torch.nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Move every matrix that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                kept = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonal(weight.grad.lerp(kept, group["momentum"]))
                rows, columns = weight.shape
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)
