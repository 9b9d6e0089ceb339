"""What a completion is scored after, and what the teacher makes of that: a target for each of its tokens.

Shapes as in `sdpo.method.loss`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from sdpo.method.scoring import Ids


@dataclass(frozen=True)
class Contexts:
    """The token ids that one completion y is scored after.

    prompt: x, the prompt alone.
    hindsight: x, o: the prompt with the user's follow-up shown in hindsight.
    null: x, o∅: the same with a follow-up that asks for no change. Required with `Objective.null_contrast`.
    """

    prompt: Ids
    hindsight: Ids
    null: Ids | None = None


@dataclass(kw_only=True)
class Target:
    """The teacher's output in hindsight for the T tokens of one completion; the subclass depends on the objective.

    `moved_T` is set with `Objective.focus`: True where the follow-up changes the teacher's log-probability enough.
    """

    moved_T: Tensor | None = None

    @property
    def moved(self) -> bool:
        """Whether there is anything to learn from: True without `focus`."""
        return self.moved_T is None or bool(self.moved_T.any())


@dataclass
class TokenTarget(Target):
    """For "token" and "sft": the teacher's log-probability of each token, log T(y_t | x, o, y_<t)."""

    logps_T: Tensor


@dataclass
class FullTarget(Target):
    """For "full": the hidden states that the teacher's LM head turns into distributions."""

    hidden_TH: Tensor


@dataclass
class TopKTarget(Target):
    """For "top_k": the teacher's log-probability of each token, and its K most likely tokens at each position."""

    logps_T: Tensor
    top_ids_TK: Tensor
    top_logps_TK: Tensor


AnyTarget = TypeVar("AnyTarget", bound=Target)


def contexts_named(contexts: Sequence[Contexts], name: str) -> list[Ids]:
    """Return this context of each row. Raises ValueError when one is missing."""
    rows: list[Ids | None] = [getattr(row, name) for row in contexts]
    present = [row for row in rows if row is not None]
    if len(present) < len(rows):
        raise ValueError("null_contrast needs a null context for every row")
    return present


def checked(targets: Sequence[Target], kind: type[AnyTarget]) -> list[AnyTarget]:
    """Return the targets as those of one kind. Raises TypeError when one is of another."""
    of_kind = [target for target in targets if isinstance(target, kind)]
    if len(of_kind) < len(targets):
        raise TypeError(f"the objective needs a {kind.__name__} for every row")
    return of_kind
