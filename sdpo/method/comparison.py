"""Comparing the policy's distributions over the vocabulary with a target's, at each position of the completions.

The logits of a chunk of positions exist at a time. Shapes as in `sdpo.method.scoring`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
        trained = head.weight.requires_grad or (head.bias is not None and head.bias.requires_grad)
        function = _CompareWithTrainedHead if trained else _CompareWithFrozenHead
        return function.apply(hidden_NH, head.weight, head.bias, divergence, tensors)

    columns_N4 = at_positions(model, contexts, completions, None, lambda *_: project)
    (logps_BT, entropy_BT, target_logps_BT, divergence_BT), mask_BT = as_rows(columns_N4, completions)
    return Comparison(logps_BT.detach(), entropy_BT.detach(), mask_BT, target_logps_BT.detach(), divergence_BT)


def _compared(
    logits_CV: Tensor, divergence: Divergence, tensors_C: Sequence[Tensor], grad_C: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the columns of a comparison, (C, 4), and the gradient of the divergence in the logits, (C, V).

    The columns are log-probability, entropy, the target's log-probability and divergence, without gradient. The
    gradient is that of each position's divergence times `grad_C`; without `grad_C` it is empty.
    """
    with torch.autocast(logits_CV.device.type, enabled=False):
        logps_CV = logits_CV.log_softmax(-1).requires_grad_(grad_C is not None)
        del logits_CV
        with torch.set_grad_enabled(grad_C is not None):
            target_logps_C, divergence_C = divergence(logps_CV, *tensors_C)
        gradient_CV = logps_CV.new_empty(0)
        if grad_C is not None:
            (gradient_CV,) = torch.autograd.grad(divergence_C, logps_CV, grad_C)
        with torch.no_grad():
            logps_C = logps_CV.gather(-1, tensors_C[0][:, None]).squeeze(-1)
            policy_CV = logps_CV.exp()
            entropy_C = -torch.bmm(policy_CV[:, None], logps_CV[:, :, None]).flatten()
            if grad_C is not None:  # through log_softmax
                gradient_CV = gradient_CV.sub_(policy_CV.mul_(gradient_CV.sum(-1, keepdim=True)))
            columns_C4 = torch.stack((logps_C, entropy_C, target_logps_C, divergence_C.detach()), dim=-1)
    return columns_C4, gradient_CV


def _chunks(*tensors_N: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the same chunk of positions of each tensor."""
    yield from zip(*(tensor.split(COMPARE_CHUNK) for tensor in tensors_N), strict=True)


class _CompareWithTrainedHead(torch.autograd.Function):
    """The columns (N, 4) where the LM head is trained: each chunk's logits are computed again in the backward pass.

    The gradient of the weight is added up in one tensor; autograd would make one of its size for every chunk.
    """

    @staticmethod
    def forward(ctx, hidden_NH, weight_VH, bias_V, divergence, tensors):
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V)
        ctx.divergence, ctx.tensors = divergence, tensors
        return torch.cat(
            [
                _compared(logits(hidden_CH, weight_VH, bias_V), divergence, tensors_C)[0]
                for hidden_CH, *tensors_C in _chunks(hidden_NH, *tensors)
            ]
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_N4):
        hidden_NH, weight_VH, bias_V = ctx.saved_tensors
        weight = weight_VH.float()
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias_V, dtype=torch.float32) if ctx.needs_input_grad[2] else None
        grad_hidden = torch.empty_like(hidden_NH)
        parts = _chunks(hidden_NH, grad_N4, grad_hidden, *ctx.tensors)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            for hidden_CH, grad_C4, out_CH, *tensors_C in parts:
                logits_CV = logits(hidden_CH, weight, bias_V)
                _, grad_CV = _compared(logits_CV, ctx.divergence, tensors_C, grad_C4[:, 3])
                out_CH.copy_(grad_CV @ weight)
                if grad_weight is not None:
                    grad_weight.addmm_(grad_CV.t(), hidden_CH.float())
                if grad_bias is not None:
                    grad_bias.add_(grad_CV.sum(0))
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight_VH.dtype)
        if grad_bias is not None:
            grad_bias = grad_bias.to(bias_V.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None


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
            logits_CV = logits(hidden_CH, weight_VH, bias_V)
            ones_C = torch.ones_like(logits_CV[:, 0]) if needs_gradient else None
            columns_C4, gradient_CV = _compared(logits_CV, divergence, tensors_C, ones_C)
            columns.append(columns_C4)
            if needs_gradient:
                with torch.autocast(hidden_CH.device.type, enabled=False):
                    gradients.append((gradient_CV @ weight_VH).to(hidden_NH.dtype))
        ctx.save_for_backward(*([torch.cat(gradients)] if gradients else []))
        return torch.cat(columns)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_N4):
        (gradient_NH,) = ctx.saved_tensors
        return (gradient_NH * grad_N4[:, 3:]).to(gradient_NH.dtype), None, None, None, None
