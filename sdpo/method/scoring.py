"""Scoring completions: log π(y_t | context, y_<t) for each token. All padding, masking and gathering is done here.

Rows are given as plain lists of token ids, so no padding of the caller can leak in. In the forward pass they are padded
on the right or, if the model's attention supports it, packed one after the other into a single sequence (`pack_rows`).

Only the positions that predict a completion's token reach the LM head. They are projected and normalised in float32,
one chunk of positions at a time, and no chunk's logits are kept for the backward pass. So a (positions, vocabulary)
tensor of a complete batch never exists, neither for log-probabilities of tokens nor for a divergence over the
vocabulary.

Shapes, as suffixes of names: B completions, T tokens of the longest one, N positions of all completions together, one
row after the other, C positions of one chunk, H the hidden size, V the vocabulary, L the length of an input sequence.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from sdpo.errors import SettingError
from sdpo.method.token_logps import logits, token_logps

# The number of positions whose logits are held at once: 150 MB with a vocabulary of 150,000 in float32.
CHUNK = 256

# An attribute of the LM head, which is the same module whatever wraps the model: True if the model's rows are packed.
PACKS_ROWS = "packs_rows"

Ids = list[int]

# Maps the hidden states (N, H) at the N needed positions and the model's LM head to (N, columns).
Head = Callable[[Tensor, nn.Linear], Tensor]


@dataclass
class Scores:
    """What `score` returns. Each tensor is (B, T) float32, padded on the right to the longest completion with zeros.

    logps_BT: the log-probability of each token; carries gradient if the model's weights do.
    entropy_BT: the entropy of each position in nats, without gradient; zero unless requested.
    mask_BT: 1.0 on a completion's tokens, 0.0 on padding.
    """

    logps_BT: Tensor
    entropy_BT: Tensor
    mask_BT: Tensor


@dataclass
class Projection:
    """An LM head's weights as plain tensors, complete on this process: a teacher's, for use outside its forward."""

    weight_VH: Tensor
    bias_V: Tensor | None

    @classmethod
    def of(cls, model: nn.Module) -> "Projection":
        """Return the model's projection in float32, without gradient.

        Sharded weights are gathered: every process must call it.
        """
        head = find_head(model)
        return cls(_full(head.weight).float(), None if head.bias is None else _full(head.bias).float())

    def log_softmax(self, hidden_NH: Tensor) -> Tensor:
        """Return the log-probabilities over the vocabulary, (N, V) float32."""
        return logits(hidden_NH, self.weight_VH, self.bias_V).log_softmax(-1)


def score(
    model: nn.Module,
    contexts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    batch_size: int | None = None,
    entropy: bool = False,
) -> Scores:
    """Return log π(y_t | context, y_<t) for each completion and, with `entropy`, the entropy of each position.

    One forward pass takes `batch_size` rows (None: all rows). Rows are never truncated. Raises ValueError for an empty
    completion, and for an empty context, after which nothing predicts the completion's first token.
    """
    targets_N = flat_ids(completions)

    def head_for(start: int, stop: int) -> Head:
        def project(hidden_NH: Tensor, head: nn.Linear) -> Tensor:
            ids_N = targets_N[start:stop].to(hidden_NH.device)
            return token_logps(hidden_NH, head.weight, head.bias, ids_N, CHUNK, entropy)

        return project

    columns_N2 = at_positions(model, contexts, completions, batch_size, head_for)
    (logps_BT, entropy_BT), mask_BT = as_rows(columns_N2, completions)
    return Scores(logps_BT, entropy_BT.detach(), mask_BT)


def hidden_states(
    model: nn.Module,
    contexts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    batch_size: int | None = None,
) -> list[Tensor]:
    """Return the hidden states that predict each completion's tokens, as the LM head reads them: one (T, H) per row.

    Here T is the row's own number of tokens. Arguments and errors are those of `score`.
    """
    hidden_NH = at_positions(model, contexts, completions, batch_size, lambda *_: lambda hidden_NH, head: hidden_NH)
    return list(hidden_NH.split([len(completion) for completion in completions]))


@torch.no_grad()
def score_hidden(projection: Projection, hidden: Sequence[Tensor], completions: Sequence[Sequence[int]]) -> Scores:
    """Return the scores of completions whose hidden states are known, with the entropy of each position.

    `hidden` are one (T, H) per row, as from `hidden_states`. No layer of the model is run.
    """
    hidden_NH = torch.cat(list(hidden))
    ids_N = flat_ids(completions).to(hidden_NH.device)
    columns_N2 = token_logps(hidden_NH, projection.weight_VH, projection.bias_V, ids_N, CHUNK, entropy=True)
    (logps_BT, entropy_BT), mask_BT = as_rows(columns_N2, completions)
    return Scores(logps_BT, entropy_BT, mask_BT)


def pack_rows(model: nn.Module) -> bool:
    """Score the model's rows packed, without padding, from now on if its attention supports that; return whether.

    Not every attention separates rows by their restarting positions, so this is tested on three short rows. Copies of
    the model that are made later pack their rows too.
    """
    head = find_head(model)
    # From the middle of the vocabulary: special tokens make some models so unstable that bf16 rounds by whole nats.
    size = head.out_features
    rows = [[size // 2 + 7 * index % max(1, size // 3) for index in range(length)] for length in (9, 5, 12)]
    contexts, completions = [row[:2] for row in rows], [row[2:] for row in rows]
    other_first = [rows[1][:1] * len(completions[0]), *completions[1:]]
    with torch.no_grad():
        padded_BT = score(model, contexts, completions).logps_BT
        setattr(head, PACKS_ROWS, True)
        packed_BT = score(model, contexts, completions).logps_BT
        beside_other_BT = score(model, contexts, other_first).logps_BT
    # Rows that attend to each other change by several nats with the row before them, and else not at all. Wrong
    # positions show in the mean, which the rounding of bf16 or 4 bits changes by a tenth of a nat at most.
    separate = (beside_other_BT - packed_BT)[1:].abs().max().item() < 0.1
    as_padded = (packed_BT - padded_BT).abs().sum().item() / sum(map(len, completions)) < 0.3
    setattr(head, PACKS_ROWS, separate and as_padded)
    return getattr(head, PACKS_ROWS)


def at_positions(
    model: nn.Module,
    contexts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    batch_size: int | None,
    head_for: Callable[[int, int], Head],
) -> Tensor:
    """Return the heads' outputs at the N positions that predict a completion's token, row after row: (N, columns).

    `head_for(start, stop)` returns the head for the positions start to stop of the N.
    """
    if not all(map(len, contexts)) or not all(map(len, completions)):
        raise ValueError("a context and a completion must each have at least one token")
    size, parts, done = batch_size or len(contexts), [], 0
    for start in range(0, len(contexts), size):
        rows = slice(start, start + size)
        count = sum(map(len, completions[rows]))
        parts.append(_forward(model, contexts[rows], completions[rows], head_for(done, done + count)))
        if len(parts[-1]) != count:
            raise RuntimeError("the model did not call the LM head that it reports: is it a copy of a wrapped model?")
        done += count
    return torch.cat(parts)


def _forward(model: nn.Module, contexts: Sequence, completions: Sequence, head: Head) -> Tensor:
    device = next(model.parameters()).device
    rows = [[*context, *completion] for context, completion in zip(contexts, completions, strict=True)]
    if getattr(find_head(model), PACKS_ROWS, False):
        inputs, starts = _packed(rows, device)
    else:
        inputs, starts = _padded(rows, device)
    # The position before a token predicts it.
    indices = [
        (line, offset + len(context) - 1 + index)
        for (line, offset), context, completion in zip(starts, contexts, completions, strict=True)
        for index in range(len(completion))
    ]
    line_N, position_N = torch.tensor(indices, device=device).unbind(1)
    with replaced_head(model, line_N, position_N, head):
        return model(**inputs, use_cache=False).logits


def _padded(rows: list[list[int]], device: torch.device) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
    """Return model inputs with one padded row per line, and where each row begins: (line, position)."""
    length = max(map(len, rows))
    # On the right, where causal attention never lets a row's tokens see the padding. So it needs no mask, with which it
    # would compute the future as well.
    inputs = {"input_ids": torch.tensor([row + [0] * (length - len(row)) for row in rows], device=device)}
    return inputs, [(line, 0) for line in range(len(rows))]


def _packed(rows: list[list[int]], device: torch.device) -> tuple[dict[str, Tensor], list[tuple[int, int]]]:
    """Return model inputs with all rows in a single line, and where each row begins: (line, position).

    The position ids restart with each row, which is how the attention separates them.
    """
    inputs = {
        "input_ids": torch.tensor([[token for row in rows for token in row]], device=device),
        "position_ids": torch.tensor([[position for row in rows for position in range(len(row))]], device=device),
    }
    ends = itertools.accumulate(map(len, rows))
    return inputs, [(0, end - len(row)) for end, row in zip(ends, rows, strict=True)]


@contextmanager
def replaced_head(model: nn.Module, line_N: Tensor, position_N: Tensor, project: Head) -> Iterator[None]:
    """Make the model's LM head return `project` of the hidden states at the needed positions, instead of logits.

    The head stays the same module and is called from the model's own forward, so whatever wraps the model (DDP, FSDP,
    adapters, autocast) sees an ordinary forward pass.
    """
    head = find_head(model)
    with _replaced_forward(head, lambda hidden_BLH: project(hidden_BLH[line_N, position_N], head)):
        yield


@contextmanager
def _replaced_forward(head: nn.Linear, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Shadow the forward method of this one module by an attribute of the instance."""
    vars(head)["forward"] = forward
    try:
        yield
    finally:
        del vars(head)["forward"]


def flat_ids(completions: Sequence[Sequence[int]]) -> Tensor:
    return torch.tensor([token for completion in completions for token in completion], dtype=torch.long)


def as_rows(columns_NC: Tensor, completions: Sequence[Sequence[int]]) -> tuple[list[Tensor], Tensor]:
    """Return each of the C columns as (B, T), with zeros on padding, and the mask (B, T)."""
    mask_BT = torch.zeros(len(completions), max(map(len, completions)))
    for row, completion in enumerate(completions):
        mask_BT[row, : len(completion)] = 1.0
    mask_BT = mask_BT.to(columns_NC.device)
    indices = mask_BT.nonzero(as_tuple=True)
    return [torch.zeros_like(mask_BT).index_put(indices, column.float()) for column in columns_NC.unbind(-1)], mask_BT


def _full(weight: Tensor) -> Tensor:
    """Return the weight without gradient, gathered if it is sharded."""
    weight = weight.detach()
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


def find_head(model: nn.Module) -> nn.Linear:
    """Return the LM head of a transformers model, wrapped or not.

    Raises SettingError for a model that changes its logits after the LM head.
    """
    inner: Any = getattr(model, "module", model)  # a wrapper such as DDP has the model as `module`
    config = inner.config.get_text_config()
    for name in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise SettingError(
                f"{config.model_type} models change their logits after the LM head ({name}), which is not supported. "
                "Choose another model."
            )
    return inner.get_output_embeddings()


@torch.no_grad()
def top_alternatives(
    model: nn.Module, context: Sequence[int], completion: Sequence[int], count: int
) -> tuple[Tensor, Tensor]:
    """Return the `count` most likely tokens at each position of one completion: log-probabilities and ids.

    Both are (T, count), most likely first, on the CPU; float32 and int64. Raises ValueError as `score` does.
    """
    if not context or not completion:
        raise ValueError("a context and a completion must each have at least one token")
    head = find_head(model)
    chunks: list[list[Tensor]] = []

    def forward(hidden_1LH: Tensor) -> Tensor:
        hidden_TH = hidden_1LH[0, len(context) - 1 : -1]
        for hidden_CH in hidden_TH.split(CHUNK):
            logps_CV = logits(hidden_CH, head.weight, head.bias).log_softmax(-1)
            chunks.append([part.cpu() for part in logps_CV.topk(min(count, logps_CV.shape[-1]))])
        return hidden_TH

    ids_1L = torch.tensor([[*context, *completion]], device=next(model.parameters()).device)
    with _replaced_forward(head, forward):
        model(input_ids=ids_1L, use_cache=False)
    logps_TK, ids_TK = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    return logps_TK, ids_TK
