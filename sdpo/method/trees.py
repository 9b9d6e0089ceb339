"""The tokens of a forward pass in which several contexts of a completion share their beginning."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sdpo.method.scoring import Ids


class PromptCache(Protocol):
    """The keys and values of prompts, one row for each."""

    @property
    def prompts(self) -> Sequence[Ids]:
        """The token ids of each prompt."""
        ...

    @property
    def starts(self) -> Sequence[int]:
        """The column of the cache in which each prompt begins."""
        ...

    def part(self, rows: slice, width: int) -> Any:
        """Return the first columns of some rows as the model takes them; it may append to what it gets."""
        ...


@dataclass
class Line:
    """The tokens of one or more trees. `trees` and `branches` number them; branch 0 is the common beginning.

    `predicting` has for each context of each tree the positions that predict the completion's tokens. `cached` are the
    first and the last column, exclusively, of the beginning in a PromptCache.
    """

    ids: Ids = field(default_factory=list)
    positions: Ids = field(default_factory=list)
    trees: Ids = field(default_factory=list)
    branches: Ids = field(default_factory=list)
    predicting: list[list[Ids]] = field(default_factory=list)
    cached: tuple[int, int] = (0, 0)

    @classmethod
    def after_cached(cls, prompt: Ids, start: int, contexts: Sequence[Ids], completion: Ids) -> "Line":
        """Return the branches of a tree whose beginning is that of a cached prompt, which starts at a column."""
        # The last token of a context predicts the completion's first, so it cannot be left out.
        shared = min(common_length([prompt, *contexts]), min(map(len, contexts)) - 1)
        line = cls(cached=(start, start + shared))
        line._add(contexts, completion, shared)
        return line

    def add(self, contexts: Sequence[Ids], completion: Ids) -> None:
        """Append the tree of a completion's contexts."""
        shared = common_length(contexts)
        self._append(contexts[0][:shared], 0, len(self.predicting), 0)
        self._add(contexts, completion, shared)

    def _add(self, contexts: Sequence[Ids], completion: Ids, shared: int) -> None:
        """Append the branches after the `shared` first tokens of the contexts."""
        tree, begin = len(self.predicting), len(self.ids) - shared
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
