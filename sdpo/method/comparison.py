"""Comparing the policy's distributions over the vocabulary with a target's, at each position of the completions.

The logits of a chunk of positions exist at a time. Shapes as in `sdpo.method.scoring`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from sdpo.method.scoring import Scores, as_rows, at_positions, flat_ids
from sdpo.method.token_logps import logits

# The number of positions that are compared at once. Each holds several float32 values per word of the vocabulary.
COMPARE_CHUNK = 64

# Maps the policy's log-probabilities (C, V), the tokens (C,) and the target to the target's log-probabilities of the
# tokens and the divergence, both (C,).
Divergence = Callable[..., tuple[Tensor, Tensor]]


@dataclass
class Comparison(Scores):
    """What `compare` returns: the policy's scores and, in the same shape, the comparison with the target.

    Only the divergence carries gradient.

    target_logps_BT: the target's log-probability of each token.
    divergence_BT: the divergence at each position.
    """

    target_logps_BT: Tensor
    divergence_BT: Tensor


def compare(
    model: nn.Module,
    contexts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    divergence: Divergence,
    *targets_N: Tensor,
) -> Comparison:
    """Return the scores of the completions and the divergence of the model from a target at each of the N positions.

    `divergence` is called on chunks of C positions with the policy's log-probabilities (C, V), the completions' tokens
    (C,) and the same chunk of each tensor in `targets_N`. It returns the target's log-probabilities of the tokens and
    the divergence, both (C,). Nothing of the vocabulary's size that it creates is kept for the backward pass.
    """
    ids_N = flat_ids(completions)

    def project(hidden_NH: Tensor, head: nn.Linear) -> Tensor:
        tensors = (ids_N.to(hidden_NH.device), *targets_N)
        if head.weight.requires_grad or (head.bias is not None and head.bias.requires_grad):
            return _compare_recomputed(hidden_NH, head.weight, head.bias, divergence, tensors)
        return _CompareWithFrozenHead.apply(hidden_NH, head.weight, head.bias, divergence, tensors)

    columns_N4 = at_positions(model, contexts, completions, None, lambda *_: project)
    (logps_BT, entropy_BT, target_logps_BT, divergence_BT), mask_BT = as_rows(columns_N4, completions)
    return Comparison(logps_BT.detach(), entropy_BT.detach(), mask_BT, target_logps_BT.detach(), divergence_BT)


def _compared(
    hidden_CH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, divergence: Divergence, *tensors_C: Tensor
) -> Tensor:
    """Return the columns of a comparison, (C, 4): log-probability, entropy, the target's log-probability, divergence.

    The last one carries gradient.
    """
    logits_CV = logits(hidden_CH, weight_VH, bias_V)
    with torch.autocast(hidden_CH.device.type, enabled=False):
        logps_CV = logits_CV.log_softmax(-1)
        target_logps_C, divergence_C = divergence(logps_CV, *tensors_C)
        with torch.no_grad():
            entropy_C = -(logps_CV.exp() * logps_CV).sum(-1)
            logps_C = logps_CV.gather(-1, tensors_C[0][:, None]).squeeze(-1)
        return torch.stack((logps_C, entropy_C, target_logps_C, divergence_C), dim=-1)


def _compare_recomputed(
    hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, divergence: Divergence, tensors: tuple[Tensor, ...]
) -> Tensor:
    """Return the columns (N, 4). For an LM head that is trained: each chunk is computed again in the backward pass."""
    return torch.cat(
        [
            checkpoint(_compared, hidden_CH, weight_VH, bias_V, divergence, *tensors_C, use_reentrant=False)
            for hidden_CH, *tensors_C in _chunks(hidden_NH, *tensors)
        ]
    )


def _chunks(*tensors_N: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same chunk of positions of each tensor."""
    yield from zip(*(tensor.split(COMPARE_CHUNK) for tensor in tensors_N), strict=True)


class _CompareWithFrozenHead(torch.autograd.Function):
    """The columns (N, 4) where the LM head is not trained, as under an adapter: nothing is computed twice.

    A position's divergence depends on its own hidden state alone. So the forward pass takes each divergence's gradient
    at once and keeps that, (N, H), and the backward pass multiplies it by the gradient of the divergence.
    """

    @staticmethod
    def forward(ctx, hidden_NH, weight_VH, bias_V, divergence, tensors):
        needs_gradient = ctx.needs_input_grad[0]
        weight_VH = weight_VH.float()  # once, not for every chunk
        columns: list[Tensor] = []
        gradients: list[Tensor] = []
        for hidden_CH, *tensors_C in _chunks(hidden_NH, *tensors):
            hidden_CH = hidden_CH.detach().requires_grad_(needs_gradient)
            with torch.set_grad_enabled(needs_gradient):
                columns_C4 = _compared(hidden_CH, weight_VH, bias_V, divergence, *tensors_C)
                if needs_gradient:
                    gradients += torch.autograd.grad(columns_C4[:, 3].sum(), hidden_CH)
            columns.append(columns_C4.detach())
        ctx.save_for_backward(*([torch.cat(gradients)] if gradients else []))
        return torch.cat(columns)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_N4):
        (gradient_NH,) = ctx.saved_tensors
        return (gradient_NH * grad_N4[:, 3:]).to(gradient_NH.dtype), None, None, None, None
