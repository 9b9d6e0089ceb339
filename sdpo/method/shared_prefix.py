"""Scoring a completion after several contexts in one forward pass that runs their common beginning once.

A line is a tree: the tokens that all contexts of a row begin with, then one branch for each context, which is the rest
of that context and the completion. The position ids of every branch go on where the beginning ends, and the attention
mask lets a token see the beginning and its own branch. So each branch's hidden states are those of a pass of its own,
up to the rounding of another order of sums.

How much that saves depends on where the hindsight template puts the follow-up: with `after` the contexts share the
complete prompt, with `before` and `earlier turn` what precedes the last user message, with `system` nearly nothing.
Equal contexts are one branch, whatever the template.

Of a policy that has just generated the completions the beginning need not be run at all: its keys and values are in the
cache that generation leaves behind (`PromptCache`), and the line has the branches only.

Shapes as in `sdpo.method.scoring`; K contexts of a row.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sdpo.method.scoring import (
    CHUNK,
    PACKS_ROWS,
    Head,
    Ids,
    Scores,
    as_rows,
    at_positions,
    find_head,
    flat_ids,
    replaced_head,
)
from sdpo.method.token_logps import token_logps
from sdpo.method.trees import Line, PromptCache

# The largest mask of a forward pass, in tokens squared: one line of 8,192 tokens.
LARGEST_MASK = 1 << 26

# Attributes of the LM head, as PACKS_ROWS: whether this model's attention can take trees, and a cache before them.
_TAKES_TREES, _TAKES_CACHE = "takes_trees", "takes_cache"


def at_positions_of_each(
    model: nn.Module,
    contexts: Sequence[Sequence[Ids]],
    completions: Sequence[Ids],
    batch_size: int,
    head_for: Callable[[int, int], Head],
    cache: PromptCache | None = None,
) -> tuple[list[Tensor], int]:
    """Return for each of K lists of contexts what `at_positions` returns, and the number of forward passes.

    One forward pass takes `batch_size` rows, with all K contexts of each if the model's attention can take them so.
    `cache` has the keys and values that this model, with its current weights, computed for the rows' prompts.
    """
    if not all(map(len, completions)) or not all(len(context) for rows in contexts for context in rows):
        raise ValueError("a context and a completion must each have at least one token")
    batches = [slice(start, start + batch_size) for start in range(0, len(completions), batch_size)]
    lines: list[list[Line]] = []
    if (len(contexts) > 1 or cache is not None) and takes_trees(model):
        if cache is not None and not _takes_cache(model, contexts, completions, batches[0], cache):
            cache = None
        if len(contexts) > 1 or cache is not None:
            lines = [_lines(model, contexts, completions, rows, cache) for rows in batches]
    if not lines or not _fit(model, lines):
        parts = [at_positions(model, rows, completions, batch_size, head_for) for rows in contexts]
        return parts, len(contexts) * len(batches)
    outputs, done = [], 0
    for rows, batch in zip(batches, lines, strict=True):
        count = sum(map(len, completions[rows]))
        outputs.append(_forward(model, batch, head_for(done, done + count), len(contexts), cache, rows))
        done += count
    return [torch.cat(parts) for parts in zip(*outputs, strict=True)], len(batches)


def score_of_each(
    model: nn.Module, contexts: Sequence[Sequence[Ids]], completions: Sequence[Ids], batch_size: int
) -> list[Scores]:
    """Return for each of K lists of contexts what `score` returns, without entropies. Every process must call it."""
    targets_N = flat_ids(completions)

    def head_for(start: int, stop: int) -> Head:
        def project(hidden_NH: Tensor, head: nn.Linear) -> Tensor:
            ids_N = targets_N[start:stop].to(hidden_NH.device)
            return token_logps(hidden_NH, head.weight, head.bias, ids_N, CHUNK, entropy=False)

        return project

    scores = []
    for columns_N2 in at_positions_of_each(model, contexts, completions, batch_size, head_for)[0]:
        (logps_BT, entropy_BT), mask_BT = as_rows(columns_N2, completions)
        scores.append(Scores(logps_BT, entropy_BT, mask_BT))
    return scores


def takes_trees(model: nn.Module) -> bool:
    """Return whether the model's attention can take trees; tested once on three short rows, by every process."""
    head = find_head(model)
    if not hasattr(head, _TAKES_TREES):
        setattr(head, _TAKES_TREES, _attends_everywhere(model) and _agrees(model, head.out_features))
    return getattr(head, _TAKES_TREES)


def _attends_everywhere(model: nn.Module) -> bool:
    """Return whether every layer attends to the complete context, through an attention that takes a mask as given."""
    inner: Any = getattr(model, "module", model)
    config = inner.config.get_text_config()
    if config._attn_implementation != "sdpa":
        return False
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return set(kinds) == {"full_attention"}
    return getattr(config, "sliding_window", None) is None


@torch.no_grad()
def _agrees(model: nn.Module, vocabulary: int) -> bool:
    def ids(first: int, length: int) -> Ids:
        return [vocabulary // 2 + (first + 7 * index) % max(1, vocabulary // 3) for index in range(length)]

    bare = [ids(1, 4), ids(2, 9), ids(3, 2)]
    shown = [context + ids(5, 3) for context in bare]
    completions = [ids(4, 6), ids(6, 3), ids(7, 8)]
    was_training = model.training
    model.eval()
    try:
        line = _lines(model, [bare, shown], completions, slice(None))
        trees = _forward(model, line, lambda hidden_NH, head: hidden_NH, 2)
    except (RuntimeError, ValueError, TypeError, IndexError):  # a model that computes positions or masks by itself
        return False
    finally:
        model.train(was_training)
    model.eval()
    rows = [
        at_positions(model, one, completions, None, lambda *_: lambda hidden, head: hidden) for one in (bare, shown)
    ]
    model.train(was_training)
    return _are_close(trees, rows)


def _are_close(outputs: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Return whether hidden states are equal up to rounding."""
    # bf16 rounds to a few thousandths; a wrong mask or wrong positions change the hidden states beyond that.
    return all(
        ((one - other).float().norm() < 0.02 * other.float().norm()).item()
        for one, other in zip(outputs, expected, strict=True)
    )


def _takes_cache(
    model: nn.Module, contexts: Sequence[Sequence[Ids]], completions: Sequence[Ids], rows: slice, cache: PromptCache
) -> bool:
    """Return whether the cache gives what the passes without it give; tested once, on these rows, by every process.

    It does not if generation computes otherwise than scoring: with dropout, or in another precision.
    """
    head = find_head(model)
    if not hasattr(head, _TAKES_CACHE):

        def hidden(hidden_NH: Tensor, head: nn.Linear) -> Tensor:
            return hidden_NH

        expected = [at_positions(model, one[rows], completions[rows], None, lambda *_: hidden) for one in contexts]
        try:
            lines = _lines(model, contexts, completions, rows, cache)
            agrees = _are_close(_forward(model, lines, hidden, len(contexts), cache, rows), expected)
        except (RuntimeError, ValueError, TypeError, IndexError):  # a model with a cache of another kind
            agrees = False
        setattr(head, _TAKES_CACHE, _largest(model, int(not agrees)) == 0)
    return getattr(head, _TAKES_CACHE)


def _lines(
    model: nn.Module,
    contexts: Sequence[Sequence[Ids]],
    completions: Sequence[Ids],
    rows: slice,
    cache: PromptCache | None = None,
) -> list[Line]:
    """Return the trees of some rows, each in a line of its own or, if the model's rows are packed, all in one.

    With a cache each row has a line of its own, as it has in the cache.
    """
    if cache is not None:
        columns = (cache.prompts[rows], cache.starts[rows], zip(*(one[rows] for one in contexts), strict=True))
        return [Line.after_cached(*row) for row in zip(*columns, completions[rows], strict=True)]
    trees = zip(zip(*(one[rows] for one in contexts), strict=True), completions[rows], strict=True)
    if getattr(find_head(model), PACKS_ROWS, False):
        line = Line()
        for row, completion in trees:
            line.add(row, completion)
        return [line]
    lines = []
    for row, completion in trees:
        lines.append(Line())
        lines[-1].add(row, completion)
    return lines


def _fit(model: nn.Module, batches: Sequence[list[Line]]) -> bool:
    """Return whether the masks of all processes are small enough: all have to run the same forward passes."""
    largest = 0
    for lines in batches:
        length, width = max(len(line.ids) for line in lines), max(line.cached[1] for line in lines)
        largest = max(largest, len(lines) * length * (width + length))
    return _largest(model, largest) <= LARGEST_MASK


def _largest(model: nn.Module, number: int) -> int:
    """Return the largest of the processes' numbers."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return number
    shared = torch.tensor(number, device=next(model.parameters()).device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared.item())


def _forward(
    model: nn.Module,
    lines: Sequence[Line],
    head: Head,
    count: int,
    cache: PromptCache | None = None,
    rows: slice = slice(None),
) -> tuple[Tensor, ...]:
    """Return the head's output for each of the `count` contexts, at the positions of all lines' completions.

    `rows` are those of the cache, if there is one.
    """
    device, length = next(model.parameters()).device, max(len(line.ids) for line in lines)

    def padded(rows: list[Ids], value: int) -> Tensor:
        return torch.tensor([row + [value] * (length - len(row)) for row in rows], device=device)

    trees_BL, branches_BL = padded([line.trees for line in lines], -1), padded([line.branches for line in lines], 0)
    # Padding is a tree of its own: a token that attends to nothing would be NaN.
    same_tree_BLL = trees_BL[:, :, None] == trees_BL[:, None, :]
    same_branch_BLL = (branches_BL[:, :, None] == branches_BL[:, None, :]) | (branches_BL[:, None, :] == 0)
    mask_BLL = (same_tree_BLL & same_branch_BLL).tril_()
    past: dict[str, Any] = {"use_cache": False}
    if cache is not None:
        width = max(line.cached[1] for line in lines)
        past = {"use_cache": True, "past_key_values": cache.part(rows, width)}
        start_B1, end_B1 = torch.tensor([line.cached for line in lines], device=device)[:, :, None].unbind(1)
        column_W = torch.arange(width, device=device)
        is_shared_BW = (column_W >= start_B1) & (column_W < end_B1)
        mask_BLL = torch.cat((is_shared_BW[:, None].expand(-1, length, -1), mask_BLL), dim=-1)
    inputs = {
        "input_ids": padded([line.ids for line in lines], 0),
        "position_ids": padded([line.positions for line in lines], 0),
        "attention_mask": mask_BLL[:, None],
    }
    indices = [
        (index, position)
        for context in range(count)
        for index, line in enumerate(lines)
        for tree in line.predicting
        for position in tree[context]
    ]
    line_N, position_N = torch.tensor(indices, device=device).unbind(1)
    number = len(indices) // count

    def each(hidden_NH: Tensor, module: nn.Linear) -> Tensor:
        return torch.cat([head(hidden_nH, module) for hidden_nH in hidden_NH.split(number)])

    with replaced_head(model, line_N, position_N, each):
        return model(**inputs, **past).logits.split(number)
