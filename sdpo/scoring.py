"""log π(completion | context) per token: the one place that pads, masks and gathers.

Rows are given as plain lists of ids, so no padding of the caller's can leak in. Only the positions that
predict a completion's token reach the LM head; they are projected and normalised in float32, a chunk of
positions at a time, and no chunk's logits are kept for the backward pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from sdpo.errors import SettingError

# Positions whose logits are held at once: with a vocabulary of 150,000 and float32, 150 MB.
CHUNK = 256


@dataclass
class Scores:
    """Per token of each completion, padded on the right to the longest: shapes (B, T), float32.

    `logps_BT` carries gradient where the model's weights do; `entropy_BT`, in nats, does not.
    """

    logps_BT: Tensor
    entropy_BT: Tensor
    mask_BT: Tensor


def score(
    model: nn.Module,
    contexts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    batch_size: int | None = None,
) -> Scores:
    """Return the log-probability and entropy of each completion's tokens after its context.

    `batch_size` rows go through the model in one forward (all of them when None); rows are never
    cut. Raises ValueError for an empty context or completion: nothing predicts its first token.
    """
    if not all(map(len, contexts)) or not all(map(len, completions)):
        raise ValueError("a context and a completion must each have at least one token")
    size = batch_size or len(contexts)
    parts = [
        _score_batch(model, contexts[start : start + size], completions[start : start + size])
        for start in range(0, len(contexts), size)
    ]
    longest = max(map(len, completions))
    logps_BT, entropy_BT, mask_BT = (
        torch.cat([functional.pad(tensor, (0, longest - tensor.shape[1])) for tensor in tensors])
        for tensors in zip(*parts, strict=True)
    )
    return Scores(logps_BT, entropy_BT, mask_BT)


def _score_batch(model: nn.Module, contexts: Sequence, completions: Sequence) -> tuple[Tensor, Tensor, Tensor]:
    device = next(model.parameters()).device
    rows = [[*context, *completion] for context, completion in zip(contexts, completions, strict=True)]
    length = max(map(len, rows))
    # On the right: causal attention keeps a row's own tokens from ever seeing its padding.
    ids_BL = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=device)
    attended_BL = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=device)

    longest = max(map(len, completions))
    mask_BT = torch.zeros(len(rows), longest)
    for row, completion in enumerate(completions):
        mask_BT[row, : len(completion)] = 1.0
    mask_BT = mask_BT.to(device)
    row_N, place_N = mask_BT.nonzero(as_tuple=True)
    starts_B = torch.tensor([len(context) for context in contexts], device=device)
    position_N = starts_B[row_N] + place_N
    with _scoring_head(model, row_N, position_N - 1, ids_BL[row_N, position_N]):
        scores_N2 = model(input_ids=ids_BL, attention_mask=attended_BL, use_cache=False).logits

    if scores_N2.shape != (len(row_N), 2):
        raise RuntimeError("the model did not call the head it names as its own: is it a copy of a wrapped model?")
    logps_BT, entropy_BT = (
        torch.zeros_like(mask_BT).index_put((row_N, place_N), scores) for scores in scores_N2.unbind(-1)
    )
    return logps_BT, entropy_BT.detach(), mask_BT


@contextmanager
def _scoring_head(model: nn.Module, row_N: Tensor, position_N: Tensor, target_N: Tensor) -> Iterator[None]:
    """Let the model's LM head return (log-probability, entropy) of the targets instead of logits.

    It stays the same module, called from the model's own forward, so that whatever wraps the model
    (DDP, FSDP, adapters, autocast) sees an ordinary forward pass.
    """
    head = find_head(model)

    def forward(hidden_BLH: Tensor) -> Tensor:
        hidden_NH = hidden_BLH[row_N, position_N]
        pieces = [
            checkpoint(_logp_and_entropy, piece, head.weight, head.bias, targets, use_reentrant=False)
            for piece, targets in zip(hidden_NH.split(CHUNK), target_N.split(CHUNK), strict=True)
        ]
        return torch.cat(pieces)

    head.forward = forward
    try:
        yield
    finally:
        del head.forward


def _logp_and_entropy(hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None, target_N: Tensor) -> Tensor:
    with torch.autocast(hidden_NH.device.type, enabled=False):
        bias_V = None if bias_V is None else bias_V.float()
        logits_NV = functional.linear(hidden_NH.float(), weight_VH.float(), bias_V)
        log_total_N = logits_NV.logsumexp(-1)
        logps_N = logits_NV.gather(-1, target_N[:, None]).squeeze(-1) - log_total_N
        with torch.no_grad():
            entropy_N = log_total_N - (logits_NV.softmax(-1) * logits_NV).sum(-1)
        return torch.stack((logps_N, entropy_N), dim=-1)


def find_head(model: nn.Module) -> nn.Linear:
    """Return the model's LM head, wrapped or not. Raises SettingError for a model that changes its logits after it."""
    inner = model.module if hasattr(model, "module") else model
    config = inner.config.get_text_config()
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise SettingError(
                f"{config.model_type} models change their logits after the LM head ({name}), which the scorer "
                "does not follow; choose a model without it."
            )
    return inner.get_output_embeddings()


@torch.no_grad()
def top_alternatives(
    model: nn.Module, context: Sequence[int], completion: Sequence[int], count: int
) -> tuple[Tensor, Tensor]:
    """Return the `count` likeliest tokens at each position of one completion: log-probabilities and ids, (T, count).

    Likeliest first, float32 and int64, on the CPU. Raises ValueError as `score` does.
    """
    if not context or not completion:
        raise ValueError("a context and a completion must each have at least one token")
    head, found = find_head(model), []

    def forward(hidden_1LH: Tensor) -> Tensor:
        hidden_TH = hidden_1LH[0, len(context) - 1 : -1]
        bias_V = None if head.bias is None else head.bias.float()
        for piece in hidden_TH.split(CHUNK):
            logits_NV = functional.linear(piece.float(), head.weight.float(), bias_V)
            found.append([part.cpu() for part in logits_NV.log_softmax(-1).topk(min(count, logits_NV.shape[-1]))])
        return hidden_TH

    ids_1L = torch.tensor([[*context, *completion]], device=next(model.parameters()).device)
    head.forward = forward
    try:
        model(input_ids=ids_1L, use_cache=False)
    finally:
        del head.forward
    logps_TK, ids_TK = (torch.cat(parts) for parts in zip(*found, strict=True))
    return logps_TK, ids_TK
