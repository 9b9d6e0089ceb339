"""From interactions to a loss, for any trainer: the teacher looks back, the policy is scored, the two compared."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sdpo import objective as equations
from sdpo.objective import Objective
from sdpo.scoring import Scores, score
from sdpo.train.teacher import Teacher

Ids = list[int]


@dataclass(frozen=True)
class Contexts:
    """What a completion is scored after: `x` and, in hindsight, `x, o`."""

    prompt: Ids
    hindsight: Ids


@dataclass
class Target:
    """What the teacher, shown the follow-up, makes of the T tokens of one completion."""

    logps_T: Tensor | None = None


@dataclass
class Result:
    """A micro-batch's loss, its scores, and the signal per token (B, T), neither centred nor clipped."""

    loss: Tensor
    scores: Scores
    signal_BT: Tensor


class HindsightLoss:
    """The loss of interactions. `look_back` may be called long before the loss, for many micro-batches at once."""

    def __init__(self, teacher: Teacher, objective: Objective, batch_size: int) -> None:
        self.teacher, self.objective, self.batch_size = teacher, objective, batch_size

    def forwards(self, rows: int) -> int:
        """Return how many forwards of the teacher looking back on so many rows takes."""
        return -(-rows // self.batch_size)

    def look_back(self, contexts: Sequence[Contexts], completions: Sequence[Ids]) -> list[Target]:
        """Return the teacher's view of each completion, without gradient."""
        logps_BT = self.teacher.logps([row.hindsight for row in contexts], completions, self.batch_size)
        return [Target(row_T[: len(ids)]) for row_T, ids in zip(logps_BT, completions, strict=True)]

    def loss(
        self,
        model: nn.Module,
        contexts: Sequence[Contexts],
        completions: Sequence[Ids],
        targets: Sequence[Target],
        weights_B: Tensor,
        old_logps_BT: Tensor | None = None,
    ) -> Result:
        """Return the loss of a micro-batch; `weights_B` as from `objective.row_weights`.

        `old_logps_BT` are the policy's where the completions were first used; without them this is the first use.
        """
        objective = self.objective
        scores = score(model, [row.prompt for row in contexts], completions)
        old_logps_BT = scores.logps_BT.detach() if old_logps_BT is None else old_logps_BT
        teacher_logps_BT = pad_sequence([target.logps_T for target in targets], batch_first=True)
        signal_BT = equations.signal(teacher_logps_BT, old_logps_BT, scores.mask_BT)
        advantages_BT = equations.signal(teacher_logps_BT, old_logps_BT, scores.mask_BT, objective.centre)
        loss = equations.token_loss(
            scores.logps_BT, old_logps_BT, advantages_BT, scores.mask_BT, weights_B, objective.clip
        )
        return Result(loss, scores, signal_BT)
