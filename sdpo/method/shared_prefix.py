"""Scoring a completion after several contexts in one forward pass that runs their common beginning once.

A line is a tree: the tokens that all contexts of a row begin with, then one branch for each context, which is the rest
of that context and the completion. The position ids of every branch go on where the beginning ends, and the attention
mask lets a token see the beginning and its own branch. So each branch's hidden states are those of a pass of its own,
up to the rounding of another order of sums.

How much that saves depends on where the hindsight template puts the follow-up: with `after` the contexts share the
complete prompt, with `before` and `earlier turn` what precedes the last user message, with `system` nearly nothing.
Equal contexts are one branch, whatever the template.

Shapes as in `sdpo.method.scoring`; K contexts of a row.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sdpo.method.scoring import PACKS_ROWS, Head, Ids, at_positions, find_head, replaced_head

# The largest mask of a forward pass, in tokens squared: one line of 8,192 tokens.
LARGEST_MASK = 1 << 26

# An attribute of the LM head, as PACKS_ROWS: whether this model's attention can take trees.
_TAKES_TREES = "takes_trees"


@dataclass
class Line:
    """The tokens of one or more trees. `trees` and `branches` number them; branch 0 is the common beginning.

    `predicting` has for each context of each tree the positions that predict the completion's tokens.
    """

    ids: Ids = field(default_factory=list)
    positions: Ids = field(default_factory=list)
    trees: Ids = field(default_factory=list)
    branches: Ids = field(default_factory=list)
    predicting: list[list[Ids]] = field(default_factory=list)

    def add(self, contexts: Sequence[Ids], completion: Ids) -> None:
        """Append the tree of a completion's contexts."""
        tree, begin, shared = len(self.predicting), len(self.ids), common_length(contexts)
        self._append(contexts[0][:shared], 0, tree, 0)
        branches: dict[tuple[int, ...], Ids] = {}
        for context in contexts:
            rest = tuple(context[shared:])
            if rest not in branches:
                start = len(self.ids)
                self._append([*rest, *completion[:-1]], shared, tree, len(branches) + 1)
                first = start + len(rest) - 1 if rest else begin + shared - 1
                branches[rest] = [first, *range(start + len(rest), len(self.ids))]
        self.predicting.append([branches[tuple(context[shared:])] for context in contexts])

    def _append(self, ids: Ids, position: int, tree: int, branch: int) -> None:
        self.ids += ids
        self.positions += range(position, position + len(ids))
        self.trees += [tree] * len(ids)
        self.branches += [branch] * len(ids)


def common_length(contexts: Sequence[Ids]) -> int:
    """Return the number of tokens that all contexts begin with."""
    columns = zip(*contexts, strict=False)  # ends with the shortest
    return sum(1 for _ in itertools.takewhile(lambda tokens: len(set(tokens)) == 1, columns))


def at_positions_of_each(
    model: nn.Module,
    contexts: Sequence[Sequence[Ids]],
    completions: Sequence[Ids],
    batch_size: int,
    head_for: Callable[[int, int], Head],
) -> tuple[list[Tensor], int]:
    """Return for each of K lists of contexts what `at_positions` returns, and the number of forward passes.

    One forward pass takes `batch_size` rows, with all K contexts of each if the model's attention can take them so.
    """
    if not all(map(len, completions)) or not all(len(context) for rows in contexts for context in rows):
        raise ValueError("a context and a completion must each have at least one token")
    starts = range(0, len(completions), batch_size)
    lines: list[list[Line]] = []
    if len(contexts) > 1 and takes_trees(model):
        lines = [_lines(model, contexts, completions, slice(start, start + batch_size)) for start in starts]
    if not lines or not _fit(model, lines):
        parts = [at_positions(model, rows, completions, batch_size, head_for) for rows in contexts]
        return parts, len(contexts) * len(starts)
    batches, done = [], 0
    for start, batch in zip(starts, lines, strict=True):
        count = sum(map(len, completions[start : start + batch_size]))
        batches.append(_forward(model, batch, head_for(done, done + count), len(contexts)))
        done += count
    return [torch.cat(parts) for parts in zip(*batches, strict=True)], len(starts)


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
    # bf16 rounds to a few thousandths; a wrong mask or wrong positions change the hidden states beyond that.
    return all(
        ((tree - row).float().norm() < 0.02 * row.float().norm()).item() for tree, row in zip(trees, rows, strict=True)
    )


def _lines(model: nn.Module, contexts: Sequence[Sequence[Ids]], completions: Sequence[Ids], rows: slice) -> list[Line]:
    """Return the trees of some rows, each in a line of its own or, if the model's rows are packed, all in one."""
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
    largest = max(len(lines) * max(len(line.ids) for line in lines) ** 2 for lines in batches)
    if dist.is_initialized() and dist.get_world_size() > 1:
        shared = torch.tensor(largest, device=next(model.parameters()).device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        largest = int(shared.item())
    return largest <= LARGEST_MASK


def _forward(model: nn.Module, lines: Sequence[Line], head: Head, count: int) -> tuple[Tensor, ...]:
    """Return the head's output for each of the `count` contexts, at the positions of all lines' completions."""
    device, length = next(model.parameters()).device, max(len(line.ids) for line in lines)

    def padded(rows: list[Ids], value: int) -> Tensor:
        return torch.tensor([row + [value] * (length - len(row)) for row in rows], device=device)

    trees_BL, branches_BL = padded([line.trees for line in lines], -1), padded([line.branches for line in lines], 0)
    # Padding is a tree of its own: a token that attends to nothing would be NaN.
    same_tree_BLL = trees_BL[:, :, None] == trees_BL[:, None, :]
    same_branch_BLL = (branches_BL[:, :, None] == branches_BL[:, None, :]) | (branches_BL[:, None, :] == 0)
    inputs = {
        "input_ids": padded([line.ids for line in lines], 0),
        "position_ids": padded([line.positions for line in lines], 0),
        "attention_mask": (same_tree_BLL & same_branch_BLL).tril_()[:, None],
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
        return model(**inputs, use_cache=False).logits.split(number)
