"""Muon in float32, the optimizer of the tiny model's matrices."""

from collections.abc import Iterable

import torch

# Keller Jordan's quintic Newton-Schulz iteration: five rounds bring every singular value close to one.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return the matrix with its singular values moved to between 0.7 and 1.2, in the matrix's own precision."""
    transposed = matrix.size(0) > matrix.size(1)
    result = matrix.T if transposed else matrix
    result = result / result.norm().clamp(min=1e-7)
    first, third, fifth = _COEFFICIENTS
    for _ in range(_ROUNDS):
        square = result @ result.T
        result = first * result + (third * square + fifth * square @ square) @ result
    return result.T if transposed else result


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalized updates (https://kellerjordan.github.io/posts/muon/) and weight decay.

    torch.optim.Muon iterates in bfloat16. On a CPU without bfloat16 units that took a third of a training step, and
    this implementation takes a fifteenth.
    """

    def __init__(
        self, matrices: Iterable[torch.nn.Parameter], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # closures are not supported
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                momentum = state["momentum"].lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonal(weight.grad.lerp(momentum, group["momentum"]))
                rows, columns = weight.shape
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * max(1, rows / columns) ** 0.5)
