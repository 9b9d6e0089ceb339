"""Log-probabilities of tokens, log softmax(h Wᵀ + b)[y], with a hand-written backward pass.

The logits are computed one chunk of positions at a time, in the forward pass and again in the backward pass, and are
never kept; autograd would keep or copy several (positions, vocabulary) tensors. With p = softmax(h Wᵀ + b), token y
and the gradient g of its log-probability:

    dh = g (W_y − p W)      dW = −pᵀ (g h), plus g h in row y      db = −pᵀ g, plus g at y
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def logits(hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None) -> Tensor:
    """Return an LM head's logits (N, V), computed in float32 whatever the dtype of the arguments."""
    with torch.autocast(hidden_NH.device.type, enabled=False):
        return functional.linear(hidden_NH.float(), weight_VH.float(), None if bias_V is None else bias_V.float())


def token_logps(
    hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, ids_N: Tensor, chunk: int, entropy: bool
) -> Tensor:
    """Return (N, 2) float32: the log-probability of each token `ids_N`, and the entropy of its position in nats.

    The log-probability is differentiable in the hidden states, the weight and the bias. The entropy carries no
    gradient, and is zero unless `entropy` is set. The logits of `chunk` positions are held at once, and nothing of
    their size is kept for the backward pass.
    """
    return torch.stack(_TokenLogps.apply(hidden_NH, weight_VH, bias_V, ids_N, chunk, entropy), dim=-1)


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_NH, weight_VH, bias_V, ids_N, chunk, entropy):
        weight = weight_VH.float()  # once, not for every chunk
        columns = zip(
            *(
                _logps_totals_entropies(logits(hidden_CH, weight, bias_V), ids_C, entropy)
                for hidden_CH, ids_C in zip(hidden_NH.split(chunk), ids_N.split(chunk), strict=True)
            ),
            strict=True,
        )
        logps_N, totals_N, entropy_N = (torch.cat(column) for column in columns)
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, ids_N, totals_N)
        ctx.chunk = chunk
        ctx.mark_non_differentiable(entropy_N)
        return logps_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_N, _):
        hidden_NH, weight_VH, bias_V, ids_N, totals_N = ctx.saved_tensors
        needs_weight, needs_bias = ctx.needs_input_grad[1], bias_V is not None and ctx.needs_input_grad[2]
        weight = weight_VH.float()
        grad_weight = torch.zeros_like(weight) if needs_weight else None
        grad_bias = torch.zeros_like(bias_V, dtype=torch.float32) if needs_bias else None
        grad_hidden = torch.empty_like(hidden_NH)
        parts = (tensor.split(ctx.chunk) for tensor in (hidden_NH, ids_N, totals_N, grad_N, grad_hidden))
        with torch.autocast(hidden_NH.device.type, enabled=False):
            for hidden_CH, ids_C, totals_C, grad_C, out_CH in zip(*parts, strict=True):
                p_CV = logits(hidden_CH, weight, bias_V).sub_(totals_C[:, None]).exp_()
                out_CH.copy_(grad_C[:, None] * (weight[ids_C] - p_CV @ weight))
                if grad_weight is not None:
                    weighted_CH = grad_C[:, None] * hidden_CH.float()
                    grad_weight.addmm_(p_CV.t(), weighted_CH, alpha=-1).index_add_(0, ids_C, weighted_CH)
                if grad_bias is not None:
                    grad_bias.addmv_(p_CV.t(), grad_C, alpha=-1).index_add_(0, ids_C, grad_C)
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight_VH.dtype)
        if grad_bias is not None:
            grad_bias = grad_bias.to(bias_V.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _logps_totals_entropies(logits_CV: Tensor, ids_C: Tensor, entropy: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tokens' log-probabilities, log Σ exp(logits) and the entropies, each (C,). Overwrites the logits."""
    highest_C = logits_CV.amax(-1)
    at_ids_C = logits_CV.gather(-1, ids_C[:, None]).squeeze(-1)
    shifted_CV = logits_CV.sub_(highest_C[:, None])
    powers_CV = shifted_CV.exp() if entropy else shifted_CV.exp_()
    sums_C = powers_CV.sum(-1)
    totals_C = sums_C.log() + highest_C
    if not entropy:
        return at_ids_C - totals_C, totals_C, torch.zeros_like(totals_C)
    means_C = torch.bmm(powers_CV[:, None], shifted_CV[:, :, None]).flatten() / sums_C
    return at_ids_C - totals_C, totals_C, sums_C.log() - means_C
