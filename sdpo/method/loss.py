"""From interactions to a loss, for any trainer: score with the teacher, score with the policy, compare the two.

A trainer makes two calls per batch:

    hindsight = HindsightLoss(Teacher("live", model), Objective(), batch_size=4)
    targets = hindsight.teacher_targets(contexts, completions)
    result = hindsight.loss(model, contexts, completions, targets, weights_B)
    result.loss.backward()

Shapes, as suffixes of names: B completions of a micro-batch, T tokens of the longest one, or of the one that is meant,
N tokens of all completions together, C positions of one chunk, H the hidden size, V the vocabulary, K the teacher's
most likely tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from sdpo.method import objective as equations
from sdpo.method import scoring
from sdpo.method.comparison import COMPARE_CHUNK, Comparison, compare
from sdpo.method.objective import Objective
from sdpo.method.scoring import Head, Ids, Projection, Scores, flat_ids, score
from sdpo.method.targets import Contexts, FullTarget, Target, TokenTarget, TopKTarget, checked, contexts_named
from sdpo.method.teacher import Teacher
from sdpo.method.token_logps import token_logps
from sdpo.method.trees import PromptCache


@dataclass
class LossResult:
    """What `HindsightLoss.loss` returns for a micro-batch.

    loss: the scalar to call `backward` on.
    scores: the policy's scores of the completions.
    signal_BT: the signal of each token in nats (see `objective.signal`), neither centred nor clipped.
    """

    loss: Tensor
    scores: Scores
    signal_BT: Tensor


class HindsightLoss:
    """The loss of completions and the follow-ups to them.

    `teacher_targets` may be called long before `loss`, and for many micro-batches at once; it scores `batch_size` rows
    per forward pass. `forwards` is the number of forward passes of its last call.
    """

    def __init__(self, teacher: Teacher, objective: Objective, batch_size: int) -> None:
        self.teacher, self.objective, self.batch_size = teacher, objective, batch_size
        self.forwards = 0

    def has_trainable_tokens(self, completion: Ids) -> bool:
        """Return whether the objective trains on any token of the completion (see `Objective.ignore_first_k`)."""
        return len(completion) > self.objective.ignore_first_k

    def teacher_targets(
        self, contexts: Sequence[Contexts], completions: Sequence[Ids], cache: PromptCache | None = None
    ) -> list[Target]:
        """Return the teacher's target for each completion, without gradient.

        `cache` has the keys and values of the prompts under the current policy: a "live" teacher need not run them.
        Raises ValueError for an empty prompt or completion, and for a missing null context.
        """
        outputs, moved_N = self._teacher_outputs(contexts, completions, cache)
        lengths = [len(ids) for ids in completions]
        rows = zip(
            outputs.split(lengths),
            moved_N.split(lengths) if moved_N is not None else [None] * len(lengths),
            completions,
            strict=True,
        )
        if self._uses_sampled_tokens:
            return [TokenTarget(logps_T, moved_T=moved_T) for logps_T, moved_T, _ in rows]
        if self.objective.kind == "full":
            return [FullTarget(hidden_TH, moved_T=moved_T) for hidden_TH, moved_T, _ in rows]
        projection = self.teacher.projection()
        return [self._top_k_target(projection, *row) for row in rows]

    def loss(
        self,
        model: nn.Module,
        contexts: Sequence[Contexts],
        completions: Sequence[Ids],
        targets: Sequence[Target],
        weights_B: Tensor,
        old_logps_BT: Tensor | None = None,
    ) -> LossResult:
        """Return the loss of a micro-batch.

        `weights_B` are the rows' weights, as from `objective.row_weights`. `old_logps_BT` are the log-probabilities of
        the policy at the first use of the completions; None means that this is the first use. Raises TypeError or
        ValueError for the targets of another objective.
        """
        prompts = [row.prompt for row in contexts]
        if self._uses_sampled_tokens:
            scores = score(model, prompts, completions, entropy=True)
            logps = [target.logps_T for target in checked(targets, TokenTarget)]
            target_logps_BT = pad_sequence(logps, batch_first=True)
            old_logps_BT = scores.logps_BT.detach() if old_logps_BT is None else old_logps_BT
            loss = self._sampled_token_loss(scores, target_logps_BT, old_logps_BT, self._focus(targets), weights_B)
            return LossResult(loss, scores, equations.signal(target_logps_BT, old_logps_BT, scores.mask_BT))
        comparison = self._compare(model, prompts, completions, targets)
        old_logps_BT = comparison.logps_BT.detach() if old_logps_BT is None else old_logps_BT
        mask_BT = equations.after_first(comparison.mask_BT, self.objective.ignore_first_k)
        loss = equations.divergence_loss(comparison.divergence_BT * self._focus(targets), mask_BT, weights_B)
        signal_BT = equations.signal(comparison.target_logps_BT, old_logps_BT, comparison.mask_BT)
        return LossResult(loss, comparison, signal_BT)

    def bare_hidden(self, targets: Sequence[Target]) -> list[Tensor] | None:
        """Return the teacher's hidden states after the prompts alone, (T, H) per row; None if the targets have none.

        The targets of a contrast of distributions have them, so that nothing is run again for what the teacher makes of
        the completions without the follow-up.
        """
        if not (self.objective.kind == "full" and self._contrasts_distributions):
            return None
        return [target.hidden_TH.chunk(3, dim=-1)[2] for target in checked(targets, FullTarget)]

    @property
    def _uses_sampled_tokens(self) -> bool:
        """Whether the teacher scores the completion's own tokens only; "sft" learns nothing from it but reports it."""
        return self.objective.kind in ("token", "sft")

    # The teacher

    def _teacher_outputs(
        self, contexts: Sequence[Contexts], completions: Sequence[Ids], cache: PromptCache | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the teacher's output at all N tokens and, with `focus`, whether the follow-up moves it there, (N,).

        The output is log-probabilities (N,) or hidden states (N, H). With `null_contrast` it is the contrast with a
        follow-up that asks for no change.
        """
        objective = self.objective
        names = ["hindsight"]
        if objective.null_contrast or objective.focus:
            names.append("prompt")
        if objective.null_contrast:
            names.append("null")
        of_context = self._outputs_after([contexts_named(contexts, name) for name in names], completions, cache)
        outputs = of_context[0]
        if len(of_context) == 1:
            return outputs, None
        bare = of_context[1]
        if objective.null_contrast:
            outputs = self._contrast(outputs, of_context[2], bare)
        return outputs, self._is_moved(outputs, bare, completions) if objective.focus else None

    def _outputs_after(
        self, contexts: Sequence[Sequence[Ids]], completions: Sequence[Ids], cache: PromptCache | None
    ) -> list[Tensor]:
        """Return the teacher's output at all N tokens for each list of contexts: (N,) or (N, H)."""
        targets_N = flat_ids(completions)

        def head_for(start: int, stop: int) -> Head:
            def project(hidden_NH: Tensor, head: nn.Linear) -> Tensor:
                if not self._uses_sampled_tokens:
                    return hidden_NH
                ids_N = targets_N[start:stop].to(hidden_NH.device)
                return token_logps(hidden_NH, head.weight, head.bias, ids_N, scoring.CHUNK, entropy=False)

            return project

        outputs, self.forwards = self.teacher.at_positions_of_each(
            contexts, completions, self.batch_size, head_for, cache
        )
        if self._uses_sampled_tokens:
            return [columns_N2[:, 0].float() for columns_N2 in outputs]
        return [hidden_NH.float() for hidden_NH in outputs] if self.objective.null_contrast else outputs

    def _contrast(self, outputs: Tensor, null: Tensor, bare: Tensor) -> Tensor:
        """Return the contrast of outputs or, where it needs their distributions, all three side by side: (N, 3 · H)."""
        if self._contrasts_distributions:
            return torch.cat((outputs, null, bare), dim=-1)
        return equations.contrast(outputs, null, bare, self.objective.contrast_strength, self.objective.contrast_margin)

    @property
    def _contrasts_distributions(self) -> bool:
        """Whether the contrast is not linear, so that it cannot be taken between hidden states."""
        objective = self.objective
        linear = objective.contrast_margin == objective.contrast_plausibility == 0
        return objective.null_contrast and not linear and not self._uses_sampled_tokens

    def _log_softmax(self, projection: Projection, hidden_NH: Tensor) -> Tensor:
        """Return the log-probabilities of what `_teacher_outputs` returned for "full" and "top_k", (N, V)."""
        if not self._contrasts_distributions:
            return projection.log_softmax(hidden_NH)
        hindsight_NV, null_NV, bare_NV = (projection.log_softmax(part) for part in hidden_NH.chunk(3, dim=-1))
        strength, margin = self.objective.contrast_strength, self.objective.contrast_margin
        plausibility = self.objective.contrast_plausibility
        return equations.contrast(hindsight_NV, null_NV, bare_NV, strength, margin, plausibility).log_softmax(-1)

    def _is_moved(self, outputs: Tensor, bare: Tensor, completions: Sequence[Ids]) -> Tensor:
        """Return where the log-probabilities with and without the follow-up differ by `focus` or more, (N,).

        Of tokens that are ignored none does: an answer that differs in these alone has nothing to learn from.
        """
        if not self._uses_sampled_tokens:
            ids_N = torch.tensor([token for ids in completions for token in ids], device=outputs.device)
            if self._contrasts_distributions:
                bare = torch.cat((bare, bare, bare), dim=-1)
            outputs, bare = self._logps_of(ids_N, outputs), self._logps_of(ids_N, bare)
        moved_N = (outputs - bare).abs() >= self.objective.focus
        ignored = self.objective.ignore_first_k
        for moved_T in moved_N.split([len(ids) for ids in completions]):
            moved_T[:ignored] = False
        return moved_N

    @torch.no_grad()
    def _logps_of(self, ids_N: Tensor, hidden_NH: Tensor) -> Tensor:
        """Return the teacher's log-probabilities of tokens, (N,), from its hidden states, one chunk at a time."""
        projection = self.teacher.projection()
        chunks = zip(hidden_NH.split(COMPARE_CHUNK), ids_N.split(COMPARE_CHUNK), strict=True)
        logps = [self._log_softmax(projection, hidden_CH).gather(-1, ids_C[:, None]) for hidden_CH, ids_C in chunks]
        return torch.cat(logps).squeeze(-1)

    @torch.no_grad()
    def _top_k_target(
        self, projection: Projection, hidden_TH: Tensor, moved_T: Tensor | None, completion: Ids
    ) -> TopKTarget:
        """Return one row's target for "top_k", one chunk of positions at a time."""
        ids_T = torch.tensor(completion, device=hidden_TH.device)
        parts = []
        for hidden_CH, ids_C in zip(hidden_TH.split(COMPARE_CHUNK), ids_T.split(COMPARE_CHUNK), strict=True):
            logps_CV = self._log_softmax(projection, hidden_CH)
            logps_CK, ids_CK = logps_CV.topk(min(self.objective.top_k, logps_CV.shape[-1] - 1))
            parts.append((logps_CV.gather(-1, ids_C[:, None]).squeeze(-1), ids_CK, logps_CK))
        logps_T, top_ids_TK, top_logps_TK = (torch.cat(column) for column in zip(*parts, strict=True))
        return TopKTarget(logps_T, top_ids_TK, top_logps_TK, moved_T=moved_T)

    # The loss

    def _focus(self, targets: Sequence[Target]) -> Tensor | float:
        """Return the weight of each token by `focus`, (B, T), or 1 without it. Raises ValueError for other targets."""
        if not self.objective.focus:
            return 1.0
        moved = [target.moved_T for target in targets if target.moved_T is not None]
        if len(moved) < len(targets):
            raise ValueError("the targets were made without focus")
        return equations.focus_weights(pad_sequence(moved, batch_first=True))

    def _sampled_token_loss(
        self,
        scores: Scores,
        target_logps_BT: Tensor,
        old_logps_BT: Tensor,
        focus_BT: Tensor | float,
        weights_B: Tensor,
    ) -> Tensor:
        """Return the policy-gradient loss, or that of the control."""
        objective = self.objective
        mask_BT = equations.after_first(scores.mask_BT, objective.ignore_first_k)
        if objective.kind == "sft":
            return equations.imitation_loss(scores.logps_BT, mask_BT, weights_B)
        advantages_BT = equations.signal(
            target_logps_BT, old_logps_BT, mask_BT, objective.centre, objective.clip_signal
        )
        return equations.token_loss(
            scores.logps_BT, old_logps_BT, advantages_BT * focus_BT, mask_BT, weights_B, objective.clip
        )

    def _compare(
        self, model: nn.Module, prompts: Sequence[Ids], completions: Sequence[Ids], targets: Sequence[Target]
    ) -> Comparison:
        """Return the policy's scores and its divergence from the targets."""
        direction = self.objective.direction
        if self.objective.kind == "full":
            projection = self.teacher.projection()
            full = checked(targets, FullTarget)

            def over_vocabulary(logps_CV: Tensor, ids_C: Tensor, hidden_CH: Tensor) -> tuple[Tensor, Tensor]:
                target_logps_CV = self._log_softmax(projection, hidden_CH)
                at_ids_C = target_logps_CV.gather(-1, ids_C[:, None]).squeeze(-1)
                return at_ids_C, equations.divergence(logps_CV, target_logps_CV, direction)

            hidden_NH = torch.cat([target.hidden_TH for target in full])
            return compare(model, prompts, completions, over_vocabulary, hidden_NH)

        def over_top_k(
            logps_CV: Tensor, ids_C: Tensor, target_logps_C: Tensor, top_ids_CK: Tensor, top_logps_CK: Tensor
        ) -> tuple[Tensor, Tensor]:
            policy_CK1 = equations.with_tail(logps_CV.gather(-1, top_ids_CK))
            return target_logps_C, equations.divergence(policy_CK1, equations.with_tail(top_logps_CK), direction)

        top_k = checked(targets, TopKTarget)
        columns = (
            torch.cat([target.logps_T for target in top_k]),
            torch.cat([target.top_ids_TK for target in top_k]),
            torch.cat([target.top_logps_TK for target in top_k]),
        )
        return compare(model, prompts, completions, over_top_k, *columns)
