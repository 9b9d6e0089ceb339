"""The equations of SDPO from user interactions (arXiv 2603.12273): pure functions of tensors.

Shapes: B completions of a batch, T tokens of the longest. Log-probabilities are natural and float32;
`mask_BT` is 1.0 on a completion's tokens, its end token included, and 0.0 on padding.

The paper's are `signal` and `token_loss` as they are by default. Departures, each of them asked for by a setting:
the signal clipped, its first tokens ignored, an unrelated follow-up's part taken off (`contrast`), divergences
over the vocabulary in place of the sampled token (`divergence`), and the weight on what the follow-up is about
(`focus_weights`). `row_weights` gives the share of what is left out to the
others instead of shrinking the step (but see `MINIMUM_TAUGHT_SHARE`).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Enough to hold an answer together while a few of its tokens change, too little to undo what was learned before.
UNFOCUSED_WEIGHT = 0.1
# The share of a step's answers that those with something to learn from, by `focus`, count as at least: where users are
# all but content a step is about one or two answers, and at full size it would be the noise of these.
MINIMUM_TAUGHT_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Objective:
    """How the signal becomes a loss; the defaults are the paper's, online.

    `kind` is token (the sampled token), full (a divergence over the vocabulary) or top_k (over the teacher's
    `top_k` likeliest tokens and all others as one); `direction` is the divergence's. `clip_signal` and `centre`
    are about the sampled token's signal, in nats. `ignore_first_k` counts a completion's own tokens. With
    `focus` what counts are the tokens that the follow-up moves by so many nats, |log T(y_t|x,o) − log T(y_t|x)|, and
    little else (`focus_weights`); answers without such tokens teach nothing, and where few others are left the step
    is smaller (`MINIMUM_TAUGHT_SHARE`).
    """

    kind: str = "token"
    direction: str = "reverse"
    top_k: int = 20
    clip: float = 0.2
    centre: bool = True
    clip_signal: float | None = None
    ignore_first_k: int = 0
    null_contrast: bool = False
    focus: float = 0.0


def signal(
    teacher_logps_BT: Tensor,
    policy_logps_BT: Tensor,
    mask_BT: Tensor,
    centre: bool = False,
    limit: float | None = None,
) -> Tensor:
    """Return s_t = log π(y_t | x, o, y_<t) − log π(y_t | x, y_<t), without gradient, zero on padding.

    Positive where hindsight would rather say the token. With a `limit` it is clipped to ±limit nats; with
    `centre` each row's mean over its own tokens is then taken off.
    """
    signal_BT = (teacher_logps_BT - policy_logps_BT).detach() * mask_BT
    if limit is not None:
        signal_BT = signal_BT.clamp(-limit, limit)
    if centre:
        signal_BT = (signal_BT - row_mean(signal_BT, mask_BT)[:, None]) * mask_BT
    return signal_BT


def focus_weights(moved_BT: Tensor) -> Tensor:
    """Return the weights of tokens: 1 where the follow-up moves the teacher (True), UNFOCUSED_WEIGHT elsewhere.

    What moves is told by the teacher's views with and without the follow-up, not by the signal: against a teacher that
    stands still that grows with all that the policy has learned, whatever the user says.
    """
    return UNFOCUSED_WEIGHT + (1 - UNFOCUSED_WEIGHT) * moved_BT.float()


def contrast(hindsight: Tensor, unrelated: Tensor, bare: Tensor) -> Tensor:
    """Return the target with what any follow-up at all does taken off: T(x, o) − T(x, o∅) + T(x).

    It holds for log-probabilities of tokens and, because a linear LM head follows, for hidden states: those of
    `x, o` less those of an unrelated follow-up `o∅`, anchored to the teacher's under `x` alone. For a frozen
    teacher that anchor is the model that the run started from.
    """
    return hindsight - unrelated + bare


def divergence(policy_logps_NV: Tensor, target_logps_NV: Tensor, direction: str) -> Tensor:
    """Return the divergence of policy from target at each position, (N,): both are normalised over the last axis.

    reverse is KL(π ‖ T), forward KL(T ‖ π), jsd the mean of both sides' KL to the mixture of the two.
    """
    policy_NV, target_NV = policy_logps_NV.exp(), target_logps_NV.exp()
    if direction == "reverse":
        return (policy_NV * (policy_logps_NV - target_logps_NV)).sum(-1)
    if direction == "forward":
        return (target_NV * (target_logps_NV - policy_logps_NV)).sum(-1)
    mixture_logps_NV = torch.logaddexp(policy_logps_NV, target_logps_NV) - math.log(2)
    sides = policy_NV * (policy_logps_NV - mixture_logps_NV) + target_NV * (target_logps_NV - mixture_logps_NV)
    return sides.sum(-1) / 2


def with_tail(logps_NK: Tensor) -> Tensor:
    """Return the log-probabilities of some tokens and, in one more column, of all others together."""
    total_N1 = logps_NK.logsumexp(-1, keepdim=True).clamp(max=-1e-6)  # rounding can bring it to 0, the tail to -inf
    return torch.cat((logps_NK, torch.log(-torch.expm1(total_N1))), dim=-1)


def divergence_loss(divergence_BT: Tensor, mask_BT: Tensor, weights_B: Tensor) -> Tensor:
    """Return the mean over the tokens of a row, then the weighted mean over the rows."""
    return (row_mean(divergence_BT, mask_BT) * weights_B).mean()


def after_first(mask_BT: Tensor, k: int) -> Tensor:
    """Return the mask without the first k tokens of each row, whatever the other rows are."""
    return mask_BT * (torch.arange(mask_BT.shape[1], device=mask_BT.device) >= k)


def token_loss(
    logps_BT: Tensor, old_logps_BT: Tensor, advantages_BT: Tensor, mask_BT: Tensor, weights_B: Tensor, clip: float
) -> Tensor:
    """Return the policy-gradient loss: mean over the tokens of a row, then weighted mean over the rows.

    For each token −min(r·A, clip(r, 1 ± clip)·A) with r = π / π_old. On the first pass over a generation
    r is 1 and the gradient is −A·∇log π; the clip acts only where completions are used again.
    """
    ratio_BT = torch.exp((logps_BT - old_logps_BT.detach()) * mask_BT)
    clipped_BT = ratio_BT.clamp(1 - clip, 1 + clip)
    loss_BT = -torch.minimum(ratio_BT * advantages_BT, clipped_BT * advantages_BT)
    return (row_mean(loss_BT, mask_BT) * weights_B).mean()


def imitation_loss(logps_BT: Tensor, mask_BT: Tensor, weights_B: Tensor) -> Tensor:
    """Return the loss of plain fine-tuning on the completions, the control: minus log π, averaged as `token_loss`."""
    return -(row_mean(logps_BT, mask_BT) * weights_B).mean()


def row_weights(usable_B: Tensor, usable_total: float, total: int) -> Tensor:
    """Return weights that make a plain mean over all `total` rows a mean over the usable ones.

    `total` and `usable_total` count every rank and accumulation step of one optimizer step, so the step is
    the same however its rows were divided. All zero where nothing is usable.
    """
    return usable_B.float() * (total / max(usable_total, 1))


def row_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return each row's mean over its unmasked tokens, 0 for a row without any; shape (B,)."""
    return (values_BT * mask_BT).sum(1) / mask_BT.sum(1).clamp(min=1.0)
