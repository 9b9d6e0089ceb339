"""From interactions to a loss, for any trainer: the teacher looks back, the policy is scored, the two compared."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sdpo.method import objective as equations
from sdpo.method.objective import Objective
from sdpo.method.scoring import COMPARE_CHUNK, Projection, Scores, compare, score
from sdpo.method.teacher import Teacher

Ids = list[int]


@dataclass(frozen=True)
class Contexts:
    """What a completion is scored after: `x`; in hindsight `x, o`; and `x, o∅` where the contrast is asked for."""

    prompt: Ids
    hindsight: Ids
    unrelated: Ids | None = None


@dataclass
class Target:
    """What the teacher, shown the follow-up, makes of the T tokens of one completion; by the objective's kind.

    token: the log-probability of each token, `logps_T`. full: the hidden states `hidden_TH` that its LM head turns
    into distributions. top_k: the likeliest tokens `top_ids_TK` with `top_logps_TK`, and `logps_T`. With FOCUS
    `moved_T` is True where the follow-up changes the teacher's mind.
    """

    logps_T: Tensor | None = None
    hidden_TH: Tensor | None = None
    top_ids_TK: Tensor | None = None
    top_logps_TK: Tensor | None = None
    moved_T: Tensor | None = None

    @property
    def moved(self) -> bool:
        """Whether there is anything to learn from."""
        return self.moved_T is None or bool(self.moved_T.any())


@dataclass
class LossResult:
    """A micro-batch's loss, its scores, and the signal per token (B, T), neither centred nor clipped."""

    loss: Tensor
    scores: Scores
    signal_BT: Tensor


class HindsightLoss:
    """The loss of interactions.

    `teacher_targets` may be called long before the loss, for many micro-batches at once.
    """

    def __init__(self, teacher: Teacher, objective: Objective, batch_size: int) -> None:
        self.teacher, self.objective, self.batch_size = teacher, objective, batch_size

    def forwards(self, rows: int) -> int:
        """Return how many forwards of the teacher looking back on so many rows takes."""
        bare = self.objective.null_contrast or self.objective.focus > 0
        return -(-rows // self.batch_size) * (1 + self.objective.null_contrast + bare)

    def has_trainable_tokens(self, completion: Ids) -> bool:
        """Return whether the objective leaves any token of the completion to learn from."""
        return len(completion) > self.objective.ignore_first_k

    def teacher_targets(self, contexts: Sequence[Contexts], completions: Sequence[Ids]) -> list[Target]:
        """Return the teacher's view of each completion, without gradient."""
        lengths = [len(ids) for ids in completions]
        if self.objective.kind in ("token", "sft"):  # the control learns nothing from it; its signal is measured
            shown, bare = self._teacher_outputs(self._all_logps, contexts, completions)
            targets = [Target(logps_T) for logps_T in shown.split(lengths)]
        else:
            shown, bare = self._teacher_outputs(self._all_hidden, contexts, completions)
            targets = [Target(hidden_TH=hidden_TH) for hidden_TH in shown.split(lengths)]
            if self.objective.focus:
                ids_N = torch.tensor([token for ids in completions for token in ids], device=shown.device)
                shown, bare = (self._logps_of(ids_N, hidden_NH) for hidden_NH in (shown, bare))
        if self.objective.focus:
            moved_N = (shown - bare).abs() >= self.objective.focus
            for target, moved_T in zip(targets, moved_N.split(lengths), strict=True):
                target.moved_T = moved_T
        if self.objective.kind != "top_k":
            return targets
        projection = self.teacher.projection()
        return [self._top_k_target(projection, *row) for row in zip(targets, completions, strict=True)]

    @torch.no_grad()
    def _logps_of(self, ids_N: Tensor, hidden_NH: Tensor) -> Tensor:
        """Return the log-probabilities of tokens, (N,), a few positions' distributions at a time."""
        projection = self.teacher.projection()
        chunks = zip(hidden_NH.split(COMPARE_CHUNK), ids_N.split(COMPARE_CHUNK), strict=True)
        logps = [projection.log_softmax(hidden_CH).gather(-1, ids_C[:, None]) for hidden_CH, ids_C in chunks]
        return torch.cat(logps).squeeze(-1)

    def loss(
        self,
        model: nn.Module,
        contexts: Sequence[Contexts],
        completions: Sequence[Ids],
        targets: Sequence[Target],
        weights_B: Tensor,
        old_logps_BT: Tensor | None = None,
    ) -> LossResult:
        """Return the loss of a micro-batch; `weights_B` as from `objective.row_weights`.

        `old_logps_BT` are the policy's where the completions were first used; without them this is the first use.
        """
        objective, prompts = self.objective, [row.prompt for row in contexts]
        if objective.kind in ("token", "sft"):
            scores = score(model, prompts, completions, entropy=True)
            target_logps_BT = pad_sequence([target.logps_T for target in targets], batch_first=True)
        else:
            scores = compare(model, prompts, completions, *self._divergence_of(targets))
            target_logps_BT = scores.target_logps_BT
        focus_BT = 1.0
        if objective.focus:
            moved_BT = pad_sequence([target.moved_T for target in targets], batch_first=True)
            focus_BT = equations.focus_weights(moved_BT)
        old_logps_BT = scores.logps_BT.detach() if old_logps_BT is None else old_logps_BT
        mask_BT = equations.after_first(scores.mask_BT, objective.ignore_first_k)
        if objective.kind == "token":
            advantages_BT = equations.signal(
                target_logps_BT, old_logps_BT, mask_BT, objective.centre, objective.clip_signal
            )
            loss = equations.token_loss(
                scores.logps_BT, old_logps_BT, advantages_BT * focus_BT, mask_BT, weights_B, objective.clip
            )
        elif objective.kind == "sft":
            loss = equations.imitation_loss(scores.logps_BT, mask_BT, weights_B)
        else:
            loss = equations.divergence_loss(scores.divergence_BT * focus_BT, mask_BT, weights_B)
        return LossResult(loss, scores, equations.signal(target_logps_BT, old_logps_BT, scores.mask_BT))

    def _teacher_outputs(
        self, look: Callable, contexts: Sequence[Contexts], completions: Sequence[Ids]
    ) -> tuple[Tensor, Tensor | None]:
        """Return what the teacher sees in hindsight and, where the objective asks for it, without; all tokens on."""
        objective = self.objective
        shown = look([row.hindsight for row in contexts], completions)
        if not (objective.null_contrast or objective.focus):
            return shown, None
        bare = look([row.prompt for row in contexts], completions)
        if objective.null_contrast:
            shown = equations.contrast(shown, look([row.unrelated for row in contexts], completions), bare)
        return shown, bare

    def _all_logps(self, contexts: Sequence[Ids], completions: Sequence[Ids]) -> Tensor:
        logps_BT = self.teacher.logps(contexts, completions, self.batch_size)
        return torch.cat([logps_T[: len(ids)] for logps_T, ids in zip(logps_BT, completions, strict=True)])

    def _all_hidden(self, contexts: Sequence[Ids], completions: Sequence[Ids]) -> Tensor:
        hidden_NH = torch.cat(self.teacher.hidden(contexts, completions, self.batch_size))
        return hidden_NH.float() if self.objective.null_contrast else hidden_NH

    @torch.no_grad()
    def _top_k_target(self, projection: Projection, target: Target, completion: Ids) -> Target:
        """Return one row's target for top_k, a few positions' distributions at a time."""
        ids_T = torch.tensor(completion, device=target.hidden_TH.device)
        parts = []
        for chunk_CH, ids_C in zip(target.hidden_TH.split(COMPARE_CHUNK), ids_T.split(COMPARE_CHUNK), strict=True):
            logps_CV = projection.log_softmax(chunk_CH)
            logps_CK, ids_CK = logps_CV.topk(min(self.objective.top_k, logps_CV.shape[-1] - 1))
            parts.append((logps_CV.gather(-1, ids_C[:, None]).squeeze(-1), ids_CK, logps_CK))
        logps_T, top_ids_TK, top_logps_TK = (torch.cat(column) for column in zip(*parts, strict=True))
        return Target(logps_T, top_ids_TK=top_ids_TK, top_logps_TK=top_logps_TK, moved_T=target.moved_T)

    def _divergence_of(self, targets: Sequence[Target]) -> tuple:
        """Return the divergence of a chunk of positions, and the targets that it is given chunks of."""
        direction = self.objective.direction
        if self.objective.kind == "full":
            projection = self.teacher.projection()

            def over_all(logps_NV: Tensor, ids_N: Tensor, hidden_NH: Tensor) -> tuple[Tensor, Tensor]:
                target_logps_NV = projection.log_softmax(hidden_NH)
                at_ids_N = target_logps_NV.gather(-1, ids_N[:, None]).squeeze(-1)
                return at_ids_N, equations.divergence(logps_NV, target_logps_NV, direction)

            return over_all, torch.cat([target.hidden_TH for target in targets])

        def over_likeliest(
            logps_NV: Tensor, ids_N: Tensor, logps_N: Tensor, top_ids_NK: Tensor, top_logps_NK: Tensor
        ) -> tuple[Tensor, Tensor]:
            policy_NK1 = equations.with_tail(logps_NV.gather(-1, top_ids_NK))
            return logps_N, equations.divergence(policy_NK1, equations.with_tail(top_logps_NK), direction)

        columns = ("logps_T", "top_ids_TK", "top_logps_TK")
        return over_likeliest, *(torch.cat([getattr(target, name) for target in targets]) for name in columns)
