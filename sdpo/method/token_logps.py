"""Log-probabilities of tokens, log softmax(h Wᵀ + b)[y], with a hand-written backward pass.

The logits are computed for half a chunk of positions at a time. With p = softmax(h Wᵀ + b), token y, the gradient g of
its log-probability, and what pulls towards the token, u = W_y − p W:

    dh = g u      dW = −pᵀ (g h), plus g h in row y      db = −pᵀ g, plus g at y

u is computed with the log-probabilities, because the entropy follows from it as well: −log p_y + h · u + b_y − p · b.
For dW and db the probabilities of the last two halves are kept, which takes no more memory than the backward pass
needs; those before are computed again. Nothing else of their size lives until then, where autograd would keep or copy
several (positions, vocabulary) tensors.
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
    gradient, and is zero unless `entropy` is set. The logits of at most `chunk` positions are held at once.
    """
    inputs = (hidden_NH, weight_VH, bias_V)
    trains = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in inputs)
    return torch.stack(_TokenLogps.apply(*inputs, ids_N, chunk, entropy, trains), dim=-1)


class _TokenLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_NH, weight_VH, bias_V, ids_N, chunk, entropy, trains):
        weight = weight_VH.float()
        halves = -(-len(ids_N) // max(1, chunk // 2))  # all of one size, so that the last two save the most
        ctx.needs_powers, ctx.powers = trains and any(ctx.needs_input_grad[1:3]), []
        logps, totals, pulls, entropies = [], [], [], []
        for hidden_CH, ids_C in zip(hidden_NH.tensor_split(halves), ids_N.tensor_split(halves), strict=True):
            del ctx.powers[:-1]  # two are held at a time
            powers_CV, sums_C, totals_C, logps_C = _powers(hidden_CH, weight, bias_V, ids_C)
            logps.append(logps_C)
            totals.append(totals_C)
            if trains or entropy:
                with torch.autocast(hidden_NH.device.type, enabled=False):
                    pulls.append(weight[ids_C] - (powers_CV @ weight).div_(sums_C[:, None]))
            if entropy:
                entropies.append((pulls[-1] * hidden_CH.float()).sum(-1) - logps_C)
                if bias_V is not None:
                    entropies[-1] += bias_V.float()[ids_C] - (powers_CV @ bias_V.float()) / sums_C
            if ctx.needs_powers:
                ctx.powers.append(powers_CV.div_(sums_C[:, None]))
            del powers_CV
        logps_N = torch.cat(logps)
        entropy_N = torch.cat(entropies).clamp_(min=0) if entropy else torch.zeros_like(logps_N)
        ctx.halves = halves
        ctx.save_for_backward(
            hidden_NH, weight_VH, bias_V, ids_N, torch.cat(totals), torch.cat(pulls) if trains else None
        )
        ctx.mark_non_differentiable(entropy_N)
        return logps_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_N, _):
        hidden_NH, weight_VH, bias_V, ids_N, totals_N, pull_NH = ctx.saved_tensors
        grad_hidden = (grad_N[:, None] * pull_NH).to(hidden_NH.dtype)
        if not ctx.needs_powers:
            return grad_hidden, None, None, None, None, None, None
        weight = weight_VH.float()
        grad_weight = None
        grad_bias = torch.zeros_like(bias_V, dtype=torch.float32) if ctx.needs_input_grad[2] else None
        parts = [tensor.tensor_split(ctx.halves) for tensor in (hidden_NH, ids_N, totals_N, grad_N)]
        with torch.autocast(hidden_NH.device.type, enabled=False):
            for hidden_CH, ids_C, totals_C, grad_C in reversed(list(zip(*parts, strict=True))):
                if ctx.powers:
                    p_CV = ctx.powers.pop()
                else:
                    p_CV = logits(hidden_CH, weight, bias_V).sub_(totals_C[:, None]).exp_()
                if ctx.needs_input_grad[1]:
                    weighted_CH = -grad_C[:, None] * hidden_CH.float()
                    add = torch.mm if grad_weight is None else grad_weight.addmm_
                    grad_weight = add(p_CV.t(), weighted_CH).index_add_(0, ids_C, weighted_CH, alpha=-1)
                if grad_bias is not None:
                    grad_bias.addmv_(p_CV.t(), grad_C, alpha=-1).index_add_(0, ids_C, grad_C)
                del p_CV
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight_VH.dtype)
        if grad_bias is not None:
            grad_bias = grad_bias.to(bias_V.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def _powers(
    hidden_CH: Tensor, weight: Tensor, bias_V: Tensor | None, ids_C: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return exp(logits − highest), (C, V), its sums, log Σ exp(logits) and the tokens' log-probabilities, (C,)."""
    logits_CV = logits(hidden_CH, weight, bias_V)
    highest_C = logits_CV.amax(-1)
    at_ids_C = logits_CV.gather(-1, ids_C[:, None]).squeeze(-1)
    powers_CV = logits_CV.sub_(highest_C[:, None]).exp_()
    sums_C = powers_CV.sum(-1)
    totals_C = sums_C.log() + highest_C
    return powers_CV, sums_C, totals_C, at_ids_C - totals_C
