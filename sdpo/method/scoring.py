"""log π(completion | context) per token: the one place that pads, masks and gathers.

Rows are given as plain lists of ids, so no padding of the caller's can leak in; they lie below each other, padded
on the right, or, where the attention allows it, end to end. Only the positions that predict a completion's token
reach the LM head; they are projected and normalised in float32, a chunk of positions at a time, and no chunk's
logits are kept for the backward pass: no (positions, vocabulary) tensor of a whole batch ever exists, for the
log-probabilities of the tokens or for a divergence over the vocabulary.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from sdpo.errors import SettingError
from sdpo.method.token_logps import logits, token_logps

# Positions whose logits are held at once: with a vocabulary of 150,000 and float32, 150 MB.
CHUNK = 256
# The same where two distributions are compared, which holds several tensors of this size.
COMPARE_CHUNK = 64

# On the LM head, which is the same module whatever wraps the model: its rows are scored end to end.
_PACKS_ROWS = "packs_rows"

# What becomes of the hidden states (N, H) at the N needed positions: (N, columns), by the model's own LM head.
Head = Callable[[Tensor, nn.Linear], Tensor]


@dataclass
class Scores:
    """Per token of each completion, padded on the right to the longest: shapes (B, T), float32.

    `logps_BT` carries gradient where the model's weights do; `entropy_BT`, in nats, does not, and is zero where
    nobody asked for it. Against a target
    there are also `target_logps_BT`, the target's of the same tokens, and `divergence_BT`, with gradient.
    """

    logps_BT: Tensor
    entropy_BT: Tensor
    mask_BT: Tensor
    target_logps_BT: Tensor | None = None
    divergence_BT: Tensor | None = None


@dataclass
class Projection:
    """A head's weights as plain tensors, whole on this process: a teacher's, for use outside its own forward."""

    weight_VH: Tensor
    bias_V: Tensor | None

    @classmethod
    def of(cls, model: nn.Module) -> "Projection":
        """Return the model's, without gradient; where processes share them out, each gathers them."""
        head = find_head(model)
        return cls(_whole(head.weight), None if head.bias is None else _whole(head.bias))

    def log_softmax(self, hidden_NH: Tensor) -> Tensor:
        """Return log-probabilities over the vocabulary, (N, V) float32."""
        return logits(hidden_NH, self.weight_VH, self.bias_V).log_softmax(-1)


def score(
    model: nn.Module,
    contexts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    batch_size: int | None = None,
    entropy: bool = False,
) -> Scores:
    """Return the log-probability and, where asked for, the entropy of each completion's tokens after its context.

    `batch_size` rows go through the model in one forward (all of them when None); rows are never
    cut. Raises ValueError for an empty context or completion: nothing predicts its first token.
    """
    targets_N = _flat_ids(completions)

    def head_for(start: int, stop: int) -> Head:
        def project(hidden_NH: Tensor, head: nn.Linear) -> Tensor:
            ids_N = targets_N[start:stop].to(hidden_NH.device)
            return token_logps(hidden_NH, head.weight, head.bias, ids_N, CHUNK, entropy)

        return project

    columns_N2 = _at_positions(model, contexts, completions, batch_size, head_for)
    (logps_BT, entropy_BT), mask_BT = _as_rows(columns_N2, completions)
    return Scores(logps_BT, entropy_BT.detach(), mask_BT)


def hidden_states(
    model: nn.Module,
    contexts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    batch_size: int | None = None,
) -> list[Tensor]:
    """Return the hidden states that predict each completion's tokens: per row (T, H), as the LM head gets them."""
    hidden_NH = _at_positions(model, contexts, completions, batch_size, lambda *_: lambda hidden_NH, head: hidden_NH)
    return list(hidden_NH.split([len(completion) for completion in completions]))


def compare(
    model: nn.Module,
    contexts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    divergence: Callable[..., tuple[Tensor, Tensor]],
    *targets_N: Tensor,
) -> Scores:
    """Return scores with the divergence of the model from a target at each of the completions' N positions.

    `divergence` gets a chunk of the policy's log-probabilities (N, V), the completions' tokens (N,) and the same
    chunk of each of `targets_N`; it returns the target's log-probability of the tokens and the divergence, both (N,).
    It is run again in the backward pass, so that none of what it makes is kept.
    """
    ids_N = _flat_ids(completions)

    def compared(hidden_NH, weight_VH, bias_V, ids_N, *chunk_N):
        logits_NV = logits(hidden_NH, weight_VH, bias_V)
        with torch.autocast(hidden_NH.device.type, enabled=False):
            logps_NV = logits_NV.log_softmax(-1)
            target_logps_N, divergence_N = divergence(logps_NV, ids_N, *chunk_N)
            with torch.no_grad():
                entropy_N = -(logps_NV.exp() * logps_NV).sum(-1)
            logps_N = logps_NV.gather(-1, ids_N[:, None]).squeeze(-1)
            return torch.stack((logps_N, entropy_N, target_logps_N, divergence_N), dim=-1)

    def project(hidden_NH: Tensor, head: nn.Linear) -> Tensor:
        return _in_chunks(compared, COMPARE_CHUNK, head, hidden_NH, ids_N.to(hidden_NH.device), *targets_N)

    columns_N4 = _at_positions(model, contexts, completions, None, lambda *_: project)
    (logps_BT, entropy_BT, target_logps_BT, divergence_BT), mask_BT = _as_rows(columns_N4, completions)
    return Scores(logps_BT, entropy_BT.detach(), mask_BT, target_logps_BT.detach(), divergence_BT)


def pack_rows(model: nn.Module) -> bool:
    """Have the model's rows scored end to end from now on, without padding; return whether its attention can do that.

    Whether it can is tried: not every attention keeps rows apart by their positions. A copy made later packs too.
    """
    head, rows = find_head(model), [list(range(3, 3 + length)) for length in (9, 5, 12)]
    contexts, completions = [row[:2] for row in rows], [row[2:] for row in rows]
    with torch.no_grad():
        apart_BT = score(model, contexts, completions).logps_BT
        setattr(head, _PACKS_ROWS, True)
        packed_BT = score(model, contexts, completions).logps_BT
    # Rows that saw each other are off by whole nats; bf16 rounds to hundredths.
    setattr(head, _PACKS_ROWS, (packed_BT - apart_BT).abs().max().item() < 0.1)
    return getattr(head, _PACKS_ROWS)


def _at_positions(
    model: nn.Module,
    contexts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    batch_size: int | None,
    head_for: Callable[[int, int], Head],
) -> Tensor:
    """Return what the heads make of the N positions that predict a completion's token, row after row: (N, columns)."""
    if not all(map(len, contexts)) or not all(map(len, completions)):
        raise ValueError("a context and a completion must each have at least one token")
    size, parts, done = batch_size or len(contexts), [], 0
    for start in range(0, len(contexts), size):
        rows = slice(start, start + size)
        count = sum(map(len, completions[rows]))
        parts.append(_forward(model, contexts[rows], completions[rows], head_for(done, done + count)))
        if len(parts[-1]) != count:
            raise RuntimeError("the model did not call the head it names as its own: is it a copy of a wrapped model?")
        done += count
    return torch.cat(parts)


def _forward(model: nn.Module, contexts: Sequence, completions: Sequence, head: Head) -> Tensor:
    device = next(model.parameters()).device
    rows = [[*context, *completion] for context, completion in zip(contexts, completions, strict=True)]
    if getattr(find_head(model), _PACKS_ROWS, False):
        inputs, starts = _packed(rows, device)
    else:
        inputs, starts = _padded(rows, device)
    places = [
        (line, offset + len(context) - 1 + place)
        for (line, offset), context, completion in zip(starts, contexts, completions, strict=True)
        for place in range(len(completion))
    ]
    line_N, position_N = torch.tensor(places, device=device).unbind(1)
    with _replaced_head(model, line_N, position_N, head):
        return model(**inputs, use_cache=False).logits


def _padded(rows: list[list[int]], device: torch.device) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
    """Return the rows below each other, and where each begins: (line, position)."""
    length = max(map(len, rows))
    # On the right: causal attention keeps a row's own tokens from ever seeing its padding.
    inputs = {
        "input_ids": torch.tensor([row + [0] * (length - len(row)) for row in rows], device=device),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=device),
    }
    return inputs, [(line, 0) for line in range(len(rows))]


def _packed(rows: list[list[int]], device: torch.device) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
    """Return the rows one behind the other in a single line, and where each begins: (line, position).

    Positions that begin again tell the attention where a row ends.
    """
    inputs = {
        "input_ids": torch.tensor([[token for row in rows for token in row]], device=device),
        "position_ids": torch.tensor([[place for row in rows for place in range(len(row))]], device=device),
    }
    ends = itertools.accumulate(map(len, rows))
    return inputs, [(0, end - len(row)) for end, row in zip(ends, rows, strict=True)]


@contextmanager
def _replaced_head(model: nn.Module, row_N: Tensor, position_N: Tensor, project: Head) -> Iterator[None]:
    """Let the model's LM head return what `project` makes of the needed positions, instead of logits.

    It stays the same module, called from the model's own forward, so that whatever wraps the model
    (DDP, FSDP, adapters, autocast) sees an ordinary forward pass.
    """
    head = find_head(model)
    head.forward = lambda hidden_BLH: project(hidden_BLH[row_N, position_N], head)
    try:
        yield
    finally:
        del head.forward


def _in_chunks(function: Callable[..., Tensor], size: int, head: nn.Linear, *tensors_N: Tensor) -> Tensor:
    """Return function(hidden, weight, bias, *others) of a chunk of positions at a time, run again in the backward."""
    pieces = zip(*(tensor.split(size) for tensor in tensors_N), strict=True)
    return torch.cat(
        [
            checkpoint(function, hidden, head.weight, head.bias, *others, use_reentrant=False)
            for hidden, *others in pieces
        ]
    )


def _flat_ids(completions: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor([token for completion in completions for token in completion], dtype=torch.long)


def _as_rows(columns_NC: Tensor, completions: Sequence[Sequence[int]]) -> tuple[list[Tensor], Tensor]:
    """Return the columns, each (B, T) with zeros on padding, and the mask (B, T)."""
    mask_BT = torch.zeros(len(completions), max(map(len, completions)))
    for row, completion in enumerate(completions):
        mask_BT[row, : len(completion)] = 1.0
    mask_BT = mask_BT.to(columns_NC.device)
    places = mask_BT.nonzero(as_tuple=True)
    return [torch.zeros_like(mask_BT).index_put(places, column.float()) for column in columns_NC.unbind(-1)], mask_BT


def _whole(weight: Tensor) -> Tensor:
    weight = weight.detach()
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


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
        for piece in hidden_TH.split(CHUNK):
            logps_NV = logits(piece, head.weight, head.bias).log_softmax(-1)
            found.append([part.cpu() for part in logps_NV.topk(min(count, logps_NV.shape[-1]))])
        return hidden_TH

    ids_1L = torch.tensor([[*context, *completion]], device=next(model.parameters()).device)
    head.forward = forward
    try:
        model(input_ids=ids_1L, use_cache=False)
    finally:
        del head.forward
    logps_TK, ids_TK = (torch.cat(parts) for parts in zip(*found, strict=True))
    return logps_TK, ids_TK
