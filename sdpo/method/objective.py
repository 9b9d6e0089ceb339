"""The equations of SDPO from user interactions (arXiv 2603.12273), as pure functions of tensors.

Notation: x is the prompt, y the completion, o the user's follow-up, o∅ one that asks for no change (the null
follow-up). π is the policy and T the teacher, which is shown o in hindsight, as part of its prompt. In the paper the
teacher is the policy itself, so that T(y | x, o) = π(y | x, o).

Shapes, as suffixes of names: B completions in a batch, T tokens of the longest one, N positions of all completions
together, V the vocabulary, K some of its tokens. Log-probabilities are natural logarithms in float32. `mask_BT` is 1.0
on a completion's tokens, including its end token, and 0.0 on padding.

The paper's method is `signal` and `token_loss`. The signal of a token is its advantage: online after subtracting the
mean over its completion (`centre`), as the authors train, offline as it is. The hindsight context `x, o` is the
trainer's: this project's is `sdpo.text.hindsight.with_hindsight`.

Everything else departs from the paper and is enabled by a setting:
clipping the signal, ignoring each completion's first tokens, subtracting the effect of a null follow-up
(`contrast`), divergences over the vocabulary instead of the sampled token (`divergence`) and weighting the tokens that
the follow-up affects (`focus_weights`). `row_weights` averages over the usable rows, so that unusable ones do not
shrink the step (`MINIMUM_TAUGHT_SHARE` is the exception).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softshrink

# The weight of tokens that the follow-up does not affect: enough to keep an answer coherent while a few of its tokens
# change, too little to undo what was learned before.
UNFOCUSED_WEIGHT = 0.1
# With `focus`, the rows with something to learn from count as at least this share of a step's usable rows. When most
# users are content, a step is about one or two answers; at full size it would be the noise of these.
MINIMUM_TAUGHT_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Objective:
    """How the signal becomes a loss. The defaults are the paper's for online training.

    kind: "token" uses the log-probability of the sampled token, "full" a divergence over the vocabulary, "top_k" a
        divergence over the teacher's `top_k` most likely tokens with all others merged into one. "sft" is the control:
        fine-tuning on the completions, with the signal only measured.
    direction: of the divergence, "reverse", "forward" or "jsd" (see `divergence`).
    top_k: the number of teacher tokens for "top_k".
    clip: the range of the probability ratio in `token_loss`, 1 ± clip.
    centre, clip_signal: for "token", subtract each completion's mean signal; first clip the signal to ± `clip_signal`
        nats (None: no clipping).
    ignore_first_k: leave out the first k tokens of each completion.
    null_contrast: subtract the effect of a null follow-up from the teacher (see `contrast`).
    contrast_strength, contrast_margin: the factor of the difference between the two follow-ups, and the size in nats
        below which it counts as noise (see `contrast`).
    contrast_plausibility: for "full" and "top_k", the share of the most likely token's probability that a token needs
        for the contrast to make it likelier; 0 for no such limit (see `contrast`).
    focus: a threshold in nats, 0 for off. Tokens with |log T(y_t | x, o, y_<t) − log T(y_t | x, y_<t)| below it count
        little (see `focus_weights`). Completions without any token above it are not learned from, and when few others
        are left the step is smaller (see `MINIMUM_TAUGHT_SHARE`).
    """

    kind: str = "token"
    direction: str = "reverse"
    top_k: int = 20
    clip: float = 0.2
    centre: bool = True
    clip_signal: float | None = None
    ignore_first_k: int = 0
    null_contrast: bool = False
    contrast_strength: float = 1.0
    contrast_margin: float = 0.0
    contrast_plausibility: float = 0.0
    focus: float = 0.0


def signal(
    teacher_logps_BT: Tensor,
    policy_logps_BT: Tensor,
    mask_BT: Tensor,
    centre: bool = False,
    limit: float | None = None,
) -> Tensor:
    """Return the signal of each token, in nats: (B, T), zero on padding and without gradient.

        s_t = log T(y_t | x, o, y_<t) − log π(y_t | x, y_<t)

    It is positive where the token is more likely in hindsight. With a `limit` it is clipped to ± limit; then, with
    `centre`, each row's mean over its own tokens is subtracted.
    """
    signal_BT = (teacher_logps_BT - policy_logps_BT).detach() * mask_BT
    if limit is not None:
        signal_BT = signal_BT.clamp(-limit, limit)
    if centre:
        signal_BT = (signal_BT - row_mean(signal_BT, mask_BT)[:, None]) * mask_BT
    return signal_BT


def focus_weights(moved_BT: Tensor) -> Tensor:
    """Return the weight of each token, (B, T): 1 where the follow-up moves the teacher, else UNFOCUSED_WEIGHT.

    `moved_BT` compares the teacher with and without the follow-up. The signal would be the wrong measure: against a
    teacher that does not follow the policy, it grows with everything the policy has learned, whatever the user writes.
    """
    return UNFOCUSED_WEIGHT + (1 - UNFOCUSED_WEIGHT) * moved_BT.float()


def contrast(
    hindsight: Tensor,
    null: Tensor,
    bare: Tensor,
    strength: float = 1.0,
    margin: float = 0.0,
    plausibility: float = 0.0,
) -> Tensor:
    """Return the teacher's output without the effect that any follow-up has.

        T(x) + strength · S(T(x, o) − T(x, o∅)),   S(d) = sign(d) max(|d| − margin, 0)

    The arguments have one shape: the log-probabilities of tokens or, without a margin, because the LM head is linear,
    the hidden states that it reads. The difference between the user's and the null follow-up is added to the
    teacher's output for `x` alone. For a frozen teacher the latter is the model that the run started from. Where the
    difference is within the margin nothing is learned: a small model's distribution moves a little with any context,
    and a larger `strength` would amplify that as well.

    With a `plausibility` p the arguments are log-probabilities over the vocabulary, the last axis. Then the difference
    makes a token v less likely, but likelier only if T(v | x) or T(v | x, o) is at least p times that of the most
    likely token. Far down in the distribution the difference is noise, which a larger `strength` would turn into
    nonsense: the constraint of contrastive decoding (arXiv 2210.15097), there for a ratio of two models.
    """
    difference = hindsight - null
    if margin:
        difference = softshrink(difference, margin)
    if plausibility:
        likely = _likely(bare, plausibility) | _likely(hindsight, plausibility)
        difference = torch.where(likely, difference, difference.clamp(max=0))
    return bare + strength * difference


def _likely(logps_NV: Tensor, share: float) -> Tensor:
    """Return which tokens are at least `share` times as likely as the most likely one, (N, V)."""
    return logps_NV >= logps_NV.amax(-1, keepdim=True) + math.log(share)


def divergence(policy_logps_NV: Tensor, target_logps_NV: Tensor, direction: str) -> Tensor:
    """Return the divergence between policy and target at each position, (N,), in nats.

    Both arguments are log-probabilities that are normalised over the last axis. `direction` is one of

        reverse   KL(π ‖ T) = Σ_v π(v) (log π(v) − log T(v))
        forward   KL(T ‖ π) = Σ_v T(v) (log T(v) − log π(v))
        jsd       (KL(π ‖ M) + KL(T ‖ M)) / 2  with  M = (π + T) / 2

    The gradient is taken in the policy's log-probabilities only.
    """
    return _Divergence.apply(policy_logps_NV, target_logps_NV, direction)


class _Divergence(torch.autograd.Function):
    """A divergence with its gradient written out: autograd would keep several tensors of the vocabulary's size."""

    @staticmethod
    def forward(ctx, policy_logps_NV, target_logps_NV, direction):
        ctx.save_for_backward(policy_logps_NV, target_logps_NV)
        ctx.direction = direction
        if direction == "reverse":
            return _kl(policy_logps_NV, target_logps_NV)
        if direction == "forward":
            return _kl(target_logps_NV, policy_logps_NV)
        mixture_logps_NV = torch.logaddexp(policy_logps_NV, target_logps_NV).sub_(math.log(2))
        return (_kl(policy_logps_NV, mixture_logps_NV) + _kl(target_logps_NV, mixture_logps_NV)) / 2

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_N):
        policy_logps_NV, target_logps_NV = ctx.saved_tensors
        if ctx.direction == "forward":
            return target_logps_NV.exp().mul_(-grad_N[:, None]), None, None
        if ctx.direction == "reverse":
            slope_NV = (policy_logps_NV - target_logps_NV).add_(1)
        else:  # the mixture's own change cancels
            mixture_logps_NV = torch.logaddexp(policy_logps_NV, target_logps_NV).sub_(math.log(2))
            slope_NV = torch.sub(policy_logps_NV, mixture_logps_NV, out=mixture_logps_NV).div_(2)
        return slope_NV.mul_(policy_logps_NV.exp()).mul_(grad_N[:, None]), None, None


def _kl(p_logps_NV: Tensor, q_logps_NV: Tensor) -> Tensor:
    """Return KL(p ‖ q) = Σ_v p(v) (log p(v) − log q(v)) at each position, (N,)."""
    return (p_logps_NV - q_logps_NV).mul_(p_logps_NV.exp()).sum(-1)


def with_tail(logps_NK: Tensor) -> Tensor:
    """Return the log-probabilities of K tokens and, in one more column, of all other tokens together: (N, K + 1)."""
    # Rounding can bring the total to 0, which would make the tail -inf.
    total_N1 = logps_NK.logsumexp(-1, keepdim=True).clamp(max=-1e-6)
    return torch.cat((logps_NK, torch.log(-torch.expm1(total_N1))), dim=-1)


def divergence_loss(divergence_BT: Tensor, mask_BT: Tensor, weights_B: Tensor) -> Tensor:
    """Return the scalar loss: the mean over each row's tokens, then the weighted mean over the rows."""
    return (row_mean(divergence_BT, mask_BT) * weights_B).mean()


def after_first(mask_BT: Tensor, k: int) -> Tensor:
    """Return the mask without the first k tokens of each row, (B, T). It does not depend on the other rows."""
    return mask_BT * (torch.arange(mask_BT.shape[1], device=mask_BT.device) >= k)


def token_loss(
    logps_BT: Tensor, old_logps_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, weights_B: Tensor, clip: float
) -> Tensor:
    """Return the scalar policy-gradient loss: the mean over each row's tokens, then the weighted mean over the rows.

    The loss of a token with advantage A_t and probability ratio r_t is that of PPO:

        −min(r_t A_t, clip(r_t, 1 − clip, 1 + clip) A_t),   r_t = π(y_t | x, y_<t) / π_old(y_t | x, y_<t)

    In the first optimizer step on a completion r_t is 1 and the gradient is −A_t ∇log π(y_t | x, y_<t). Clipping has
    an effect only when completions are used again.
    """
    ratio_BT = torch.exp((logps_BT - old_logps_BT.detach()) * mask_BT)
    clipped_BT = ratio_BT.clamp(1 - clip, 1 + clip)
    loss_BT = -torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)
    return (row_mean(loss_BT, mask_BT) * weights_B).mean()


def imitation_loss(logps_BT: Tensor, mask_BT: Tensor, weights_B: Tensor) -> Tensor:
    """Return the scalar loss of the control, fine-tuning on the completions: −log π, averaged as in `token_loss`."""
    return -(row_mean(logps_BT, mask_BT) * weights_B).mean()


def row_weights(usable_B: Tensor, usable_total: float, total: int) -> Tensor:
    """Return weights (B,) that turn a plain mean over all `total` rows into a mean over the usable ones.

    `total` and `usable_total` count the rows of all ranks and accumulation steps of one optimizer step, so the step
    does not depend on how its rows are divided. The weights are all zero when no row is usable.
    """
    return usable_B.float() * (total / max(usable_total, 1))


def row_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return each row's mean over its unmasked tokens, (B,); 0 for a row without any."""
    return (values_BT * mask_BT).sum(1) / mask_BT.sum(1).clamp(min=1.0)
