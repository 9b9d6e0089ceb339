"""Online SDPO: sample an answer, get the user's follow-up, score the answer again in hindsight, update.

TRL's RLOOTrainer generates, buffers, logs and saves. `sampling` replaces the tokenization of prompts and asks the user,
this module replaces the steps between an answer and its loss, and the loss. Besides generation an optimizer step costs
two forwards per row: the teacher's on `x, o`, and the policy's on `x`, whose log-probabilities carry the gradient and
also give the signal. A live teacher takes what `x, o` has in common with `x` from the cache that generation leaves.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from sdpo import progress
from sdpo.english.follow_up_kinds import FollowUpReader
from sdpo.errors import LossNotFinite, SimulatorUnavailable
from sdpo.method.loss import Contexts
from sdpo.method.objective import MINIMUM_TAUGHT_SHARE, Objective, row_weights
from sdpo.method.targets import Target
from sdpo.method.teacher import Teacher
from sdpo.text.chat import encode_prompt
from sdpo.text.hindsight import HINDSIGHT, HindsightTemplate, with_hindsight
from sdpo.text.prompts import FOLLOW_UP_KINDS, NULL_FOLLOW_UP, Message
from sdpo.train.collapse import repeated_share
from sdpo.train.online.sampling import Answers, OnlineConfig, SamplingTrainer, User
from sdpo.train.record import LatestAnswers
from sdpo.users.simulator import FollowUp

COMPLAINT, THANKS, _ = FOLLOW_UP_KINDS
VALIDATION_ROUND = 1 << 20  # beyond all rounds of training, which are numbered by step


class OnlineTrainer(SamplingTrainer):
    """RLOOTrainer whose advantage comes from scoring the answer again with the follow-up in context.

    `user` may be None if the dataset has `completion` and `follow_up` to replay, and perhaps `satisfied`.
    `is_satisfied`, if there is an oracle, returns whether a follow-up expresses satisfaction. With `complaints_only`
    only complaints are learned from, not thanks or new topics; the answers of satisfied users are then scored without
    their follow-up, and drawn to what the teacher says to the prompt alone, with `content_weight`. `wait_for_user` is
    called if the user does not respond and returns when it does, or raises; without it the run ends at once.
    """

    def __init__(
        self,
        *,
        user: User | None,
        model: PreTrainedModel | PeftModel,
        teacher: Teacher,
        objective: Objective,
        args: OnlineConfig,
        hindsight_template: HindsightTemplate = HINDSIGHT,
        null_follow_up: str = NULL_FOLLOW_UP,
        is_satisfied: Callable[[str], bool] | None = None,
        complaints_only: bool = False,
        content_weight: float = 0.0,
        **arguments: Any,
    ) -> None:
        super().__init__(reward_funcs=[], model=model, teacher=teacher, objective=objective, args=args, **arguments)
        self.hindsight_template = hindsight_template
        self.null_follow_up = null_follow_up if objective.null_contrast else ""
        self.is_satisfied, self.complaints_only, self.content_weight = is_satisfied, complaints_only, content_weight
        self.user = user
        self.wait_for_user: Callable[[SimulatorUnavailable], None] | None = None
        self._context_limit = self.model.config.get_text_config().max_position_embeddings

    def create_model_card(self, *_: object, **__: object) -> None:
        """Do nothing: TRL's card would name RLOO as the method, and the run directory has its own."""

    def evaluate(self, *arguments: Any, **named: Any) -> dict[str, float]:
        """Answer the validation prompts and get the user's follow-ups, without any effect on training."""
        latest, self._required_user.round = self.latest, VALIDATION_ROUND
        device = self.accelerator.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.args.seed + self.accelerator.process_index)
            try:
                return super().evaluate(*arguments, **named)
            finally:
                self.latest = latest

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict:
        self.latest.bare_hidden = None  # its memory is needed to generate
        prompts = [row["prompt"] for row in inputs]
        replays = "completion" in inputs[0]
        answers = self._replay(inputs) if replays else self._generate_and_ask(prompts)
        kinds = self._kinds(answers.follow_ups)
        contexts, usable_B = self._contexts(prompts, answers, kinds)
        with self.record.timed("scoring"), progress.task("scoring in hindsight"):
            targets = self.hindsight.teacher_targets(contexts, answers.completion_ids, answers.cache)
            answers.cache = None  # its memory is needed for the loss
            self.record.forwards += self.hindsight.forwards
        self._focus_on_content(targets, kinds)
        moved_B = torch.tensor([target.moved for target in targets], device=usable_B.device)
        is_complaint_B = torch.tensor([kind == COMPLAINT for kind in kinds], device=usable_B.device)
        learned_from_B = is_complaint_B if self.complaints_only else torch.ones_like(usable_B)
        self.record.unmoved += int((usable_B & ~moved_B).sum())
        self.record.rows += len(prompts)
        self.record.prompts += [prompt[-1]["content"] for prompt in prompts]
        self.record.completions += answers.texts
        self.record.repetition += sum(map(repeated_share, answers.completion_ids))
        of_usable = [kind for kind, usable in zip(kinds, usable_B.tolist(), strict=True) if usable]
        self.record.stated += len(of_usable)
        self.record.stated_satisfied += of_usable.count(THANKS)
        messages = [] if replays else prompts
        hidden = self.hindsight.bare_hidden(targets)
        self.latest = LatestAnswers(answers.prompt_ids, answers.completion_ids, messages, hidden)
        return {
            # TRL splits the batch by the length of the first value, so this one goes first.
            "weights_B": self._row_weights(usable_B, usable_B & moved_B & learned_from_B, kinds),
            "usable_B": usable_B,
            "targets": targets,
            "contexts": contexts,
            "completion_ids": answers.completion_ids,
            "text": [
                {
                    "prompt": prompt[-1]["content"],
                    "completion": text,
                    "finished": ids[-1] in self.eos_token_ids,
                    "follow_up": follow_up.text,
                    "satisfied": follow_up.satisfied,
                    "kind": kind if follow_up.text else None,
                }
                for prompt, text, ids, follow_up, kind in zip(
                    prompts, answers.texts, answers.completion_ids, answers.follow_ups, kinds, strict=True
                )
            ],
        }

    def _kinds(self, follow_ups: list[FollowUp]) -> list[str]:
        """Return the kind of each follow-up: as the user states, as the oracle reads, or as the start model reads."""
        known = [row.satisfied for row in follow_ups]
        if (reads := self.is_satisfied) is not None:
            known = [
                reads(row.text) if stated is None else stated for row, stated in zip(follow_ups, known, strict=True)
            ]
        # With several processes all have to take part in the forward passes of the reader.
        if any(gather_object([None in known])):
            read = self._reader.kinds([row.text for row in follow_ups])
        else:
            read = [COMPLAINT] * len(known)
        return [kind if fits is None else THANKS if fits else COMPLAINT for fits, kind in zip(known, read, strict=True)]

    @cached_property
    def _reader(self) -> FollowUpReader:
        return FollowUpReader(self.start.run, self.processing_class)

    def _contexts(
        self, prompts: list[list[Message]], answers: Answers, kinds: list[str]
    ) -> tuple[list[Contexts], Tensor]:
        """Return the contexts to score each completion in, and a mask of the rows with a usable follow-up.

        A row without one is scored in its prompt alone, so that every process runs the same forwards.
        """
        contexts, usable = [], []
        texts = [follow_up.text for follow_up in answers.follow_ups]
        for prompt, bare, completion, follow_up, kind in zip(
            prompts, answers.prompt_ids, answers.completion_ids, texts, kinds, strict=True
        ):
            shown = bool(follow_up) and not (self.content_weight and kind == THANKS)
            hindsight_contexts = {
                name: self._hindsight_context(prompt, text) if shown and text else bare
                for name, text in (("hindsight", follow_up), ("null", self.null_follow_up))
            }
            fits = max(map(len, hindsight_contexts.values())) + len(completion) <= self._context_limit
            finished = completion[-1] in self.eos_token_ids
            self.record.empty += not follow_up
            self.record.too_long += not fits
            self.record.truncated += not finished
            trainable = self.hindsight.has_trainable_tokens(completion) and (
                finished or not self.args.mask_truncated_completions
            )
            usable.append(bool(follow_up) and fits and trainable)
            if not fits:
                hindsight_contexts = dict.fromkeys(hindsight_contexts, bare)
            contexts.append(Contexts(bare, **hindsight_contexts))
        self.record.usable += sum(usable)
        return contexts, torch.tensor(usable, device=self.accelerator.device)

    def _hindsight_context(self, prompt: list[Message], follow_up: str) -> list[int]:
        return encode_prompt(self.processing_class, with_hindsight(prompt, follow_up, self.hindsight_template))

    def _focus_on_content(self, targets: Sequence[Target], kinds: Sequence[str]) -> None:
        """Let all tokens of a satisfied user's answer count: FOCUS is about a follow-up, and theirs is not shown."""
        for target, kind in zip(targets, kinds, strict=True):
            if self.content_weight and kind == THANKS and target.moved_T is not None:
                target.moved_T = torch.ones_like(target.moved_T)

    def _row_weights(self, usable_B: Tensor, taught_B: Tensor, kinds: list[str]) -> Tensor:
        """Return the weight of each row's loss; `taught_B` marks the usable rows that are learned from.

        Those share the step, and the answers of satisfied users have `content_weight` beside them.
        """
        counts = torch.tensor([int(usable_B.sum()), int(taught_B.sum()), len(usable_B)], device=usable_B.device)
        usable, taught, total = self.accelerator.reduce(counts, reduction="sum").tolist()
        weights_B = row_weights(taught_B, max(taught, MINIMUM_TAUGHT_SHARE * usable), total)
        content_B = torch.tensor([kind == THANKS for kind in kinds], device=usable_B.device) & usable_B
        return weights_B + self.content_weight * row_weights(content_B, usable, total)

    def _compute_loss(self, model: torch.nn.Module, inputs: dict) -> Tensor:
        result = self.hindsight.loss(
            model,
            inputs["contexts"],
            inputs["completion_ids"],
            inputs["targets"],
            inputs["weights_B"],
            inputs.get("old_logps_BT"),
        )
        if not torch.isfinite(result.loss):
            rows = self.record.rows_not_finite(inputs["text"], inputs["completion_ids"], result)
            raise LossNotFinite(self.state.global_step + 1, rows)
        # TRL's buffer keeps this for further passes over the same completions; on the first pass π_old is π.
        inputs.setdefault("old_logps_BT", result.scores.logps_BT.detach())
        for name, mean in self.record.add(result, inputs["usable_B"]).items():
            # TRL averages these and passes them to the tracker.
            self._metrics["train" if self.model.training else "eval"][f"sdpo/{name}"].append(mean)
        self.record.sample(inputs["text"], inputs["completion_ids"], result, self.processing_class)
        return self.with_rehearsal(result.loss, model)
