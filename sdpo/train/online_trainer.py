"""Online SDPO: answer, let the user react, score the answer again in hindsight, update.

TRL's RLOOTrainer generates, buffers, logs and saves. Ours are the tokenizing of prompts, what happens
between an answer and its loss, and the loss. Beside generation an optimizer step costs two forwards
a row: the teacher's after `x, o`, and the policy's after `x`, whose log-probabilities carry the gradient
and give the signal at once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PreTrainedModel
from trl import RLOOConfig, RLOOTrainer

from sdpo.chat import encode_prompt
from sdpo.errors import SdpoError, SimulatorGone
from sdpo.objective import Objective, row_weights
from sdpo.prompts import HINDSIGHT, UNRELATED_FOLLOW_UP, Message, with_hindsight
from sdpo.simulator import SimulatedUser
from sdpo.train.loss import Contexts, HindsightLoss
from sdpo.train.models import keep_adapter_precise
from sdpo.train.record import StepRecord
from sdpo.train.teacher import Teacher


@dataclass
class OnlineConfig(RLOOConfig):
    """RLOO's configuration with one completion per prompt."""

    num_generations: int = 1

    def __post_init__(self) -> None:
        # RLOO compares completions of one prompt, so it refuses a single one, as the last thing it does.
        try:
            super().__post_init__()
        except ValueError as error:
            if self.num_generations != 1 or "at least 2 generations" not in str(error):
                raise


class OnlineTrainer(RLOOTrainer):
    """RLOOTrainer whose advantage is the follow-up seen in hindsight. `record` holds the step under way.

    `wait_for_user` returns when a user who went away can be asked again, or raises; without it nobody waits.
    """

    def __init__(
        self,
        *,
        user: SimulatedUser,
        model: PreTrainedModel,
        teacher: Teacher,
        objective: Objective,
        args: OnlineConfig,
        hindsight_template: str = HINDSIGHT,
        unrelated_follow_up: str = UNRELATED_FOLLOW_UP,
        **arguments,
    ) -> None:
        super().__init__(reward_funcs=[], model=model, args=args, **arguments)
        keep_adapter_precise(self.model)
        teacher.prepare(self.accelerator, self.model)
        self.hindsight = HindsightLoss(teacher, objective, args.per_device_train_batch_size)
        self.hindsight_template = hindsight_template
        self.unrelated_follow_up = unrelated_follow_up if objective.null_contrast else ""
        self.user = user
        self.wait_for_user: Callable[[SimulatorGone], None] | None = None
        self.record = StepRecord()
        self._context_limit = self.model.config.get_text_config().max_position_embeddings

    def take_record(self) -> StepRecord:
        """Return the record of the step that ended and begin the next."""
        record, self.record = self.record, StepRecord()
        return record

    def create_model_card(self, *_: object, **__: object) -> None:
        """Write none: TRL's would say that RLOO trained the model, and the run directory says more."""

    def _tokenize_prompts(self, prompts: list[list[Message]]) -> tuple[list[list[int]], None, dict]:
        return [encode_prompt(self.processing_class, prompt) for prompt in prompts], None, {}

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict:
        prompts = [row["prompt"] for row in inputs]
        with self.record.timed("generation"):
            prompt_ids, completion_ids, completions = self._generate(prompts)
        texts = [messages[0]["content"] for messages in completions]
        with self.record.timed("user"):
            follow_ups = self._react([prompt[-1]["content"] for prompt in prompts], texts)
        contexts, usable_B = self._contexts(prompts, prompt_ids, completion_ids, follow_ups)
        with self.record.timed("scoring"):
            targets = self.hindsight.look_back(contexts, completion_ids)
            self.record.forwards += self.hindsight.forwards(len(contexts))
        self.record.rows += len(texts)
        self.record.completions += texts
        return {
            "weights_B": self._row_weights(usable_B),  # first, for TRL divides all by the first one's length
            "targets": targets,
            "contexts": contexts,
            "completion_ids": completion_ids,
            "text": [
                {"prompt": prompt[-1]["content"], "completion": text, "follow_up": follow_up}
                for prompt, text, follow_up in zip(prompts, texts, follow_ups, strict=True)
            ],
        }

    def _react(self, prompts: list[str], completions: list[str]) -> list[str]:
        """Return the user's follow-ups. Raises SdpoError on every process where any of them was left without."""
        while True:
            texts, failure = [], None
            try:
                texts = [reply.text for reply in self.user.react(prompts, completions)]
            except SdpoError as error:
                failure = error
            # Together: one process alone could not save, and the others would wait for it.
            failures = [found for found in gather_object([failure]) if found is not None]
            if not failures:
                return texts
            # First what no waiting mends.
            failure = min(failures, key=lambda found: isinstance(found, SimulatorGone))
            if self.wait_for_user is None or not isinstance(failure, SimulatorGone):
                raise failure
            self.wait_for_user(failure)

    def _contexts(
        self, prompts: list, prompt_ids: list, completion_ids: list, follow_ups: list[str]
    ) -> tuple[list[Contexts], Tensor]:
        """Return the contexts to score each completion after, and which rows have a follow-up that can be used.

        A row without one is scored after its bare prompt, so that every process runs the same forwards.
        """
        contexts, usable = [], []
        for prompt, bare, completion, follow_up in zip(prompts, prompt_ids, completion_ids, follow_ups, strict=True):
            shown = {
                name: self._hindsight(prompt, text) if follow_up and text else bare
                for name, text in (("hindsight", follow_up), ("unrelated", self.unrelated_follow_up))
            }
            fits = max(map(len, shown.values())) + len(completion) <= self._context_limit
            finished = completion[-1] in self.eos_token_ids
            self.record.empty += not follow_up
            self.record.too_long += not fits
            self.record.truncated += not finished
            learnable = self.hindsight.counts(completion) and (finished or not self.args.mask_truncated_completions)
            usable.append(bool(follow_up) and fits and learnable)
            contexts.append(Contexts(bare, **(shown if fits else dict.fromkeys(shown, bare))))
        self.record.usable += sum(usable)
        return contexts, torch.tensor(usable, device=self.accelerator.device)

    def _hindsight(self, prompt: list[Message], follow_up: str) -> list[int]:
        return encode_prompt(self.processing_class, with_hindsight(prompt, follow_up, self.hindsight_template))

    def _row_weights(self, usable_B: Tensor) -> Tensor:
        counts = torch.tensor([int(usable_B.sum()), len(usable_B)], device=usable_B.device)
        usable, total = self.accelerator.reduce(counts, reduction="sum").tolist()
        return row_weights(usable_B, usable, total)

    def _compute_loss(self, model: torch.nn.Module, inputs: dict) -> Tensor:
        result = self.hindsight.loss(
            model,
            inputs["contexts"],
            inputs["completion_ids"],
            inputs["targets"],
            inputs["weights_B"],
            inputs.get("old_logps_BT"),
        )
        # The buffer keeps this for further passes over the same completions; on the first, π_old is π.
        inputs.setdefault("old_logps_BT", result.scores.logps_BT.detach())
        for name, mean in self.record.add(result, inputs["weights_B"]).items():
            self._metrics["train"][f"sdpo/{name}"].append(mean)  # TRL averages these and hands them to the tracker
        self.record.sample(inputs["text"], inputs["completion_ids"], result, self.processing_class)
        return result.loss
