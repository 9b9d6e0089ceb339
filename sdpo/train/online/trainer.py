"""Online SDPO: answer, let the user react, score the answer again in hindsight, update.

TRL's RLOOTrainer generates, buffers, logs and saves. Ours are the tokenizing of prompts, what happens
between an answer and its loss, and the loss. Beside generation an optimizer step costs two forwards
a row: the teacher's after `x, o`, and the policy's after `x`, whose log-probabilities carry the gradient
and give the signal at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PreTrainedModel
from trl import RLOOConfig, RLOOTrainer

from sdpo.errors import LossNotFinite, SdpoError, SimulatorUnavailable
from sdpo.method.loss import Contexts, HindsightLoss
from sdpo.method.objective import MINIMUM_TAUGHT_SHARE, Objective, row_weights
from sdpo.method.teacher import Teacher
from sdpo.models.policy import hold_trained_weights_in_float32
from sdpo.text.chat import encode_completion, encode_prompt
from sdpo.text.prompts import HINDSIGHT, UNRELATED_FOLLOW_UP, Message, with_hindsight
from sdpo.train.guard import repeated_share
from sdpo.train.online.background_request import BackgroundRequest
from sdpo.train.record import StepRecord
from sdpo.train.teacher_weights import prepare_teacher
from sdpo.users.simulator import SimulatedUser

VALIDATION_ROUND = 1 << 20  # the user's rounds in training are numbered by step


@dataclass
class OnlineConfig(RLOOConfig):
    """RLOO's configuration with one completion per prompt.

    `generation_batch` answers of a process are generated at once, all of a step's when None.
    """

    num_generations: int = 1
    generation_batch: int | None = None

    def __post_init__(self) -> None:
        # RLOO compares completions of one prompt, so it refuses a single one, as the last thing it does.
        try:
            super().__post_init__()
        except ValueError as error:
            if self.num_generations != 1 or "at least 2 generations" not in str(error):
                raise


class OnlineTrainer(RLOOTrainer):
    """RLOOTrainer whose advantage is the follow-up seen in hindsight. `record` holds the step under way.

    `is_satisfied` reads a follow-up, where there is something that can.
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
        is_satisfied: Callable[[str], bool] | None = None,
        **arguments,
    ) -> None:
        super().__init__(reward_funcs=[], model=model, args=args, **arguments)
        hold_trained_weights_in_float32(self.model)
        prepare_teacher(teacher, self.accelerator, self.model)
        self.hindsight = HindsightLoss(teacher, objective, args.per_device_train_batch_size)
        self.hindsight_template = hindsight_template
        self.unrelated_follow_up = unrelated_follow_up if objective.null_contrast else ""
        self.is_satisfied = is_satisfied
        self.user = user
        self.wait_for_user: Callable[[SimulatorUnavailable], None] | None = None
        self.record = StepRecord()
        self.latest: tuple[list[list[int]], list[list[int]]] = ([], [])  # prompts and completions of this process
        self._context_limit = self.model.config.get_text_config().max_position_embeddings

    def take_record(self) -> StepRecord:
        """Return the record of the step that ended and begin the next."""
        record, self.record = self.record, StepRecord()
        return record

    def create_model_card(self, *_: object, **__: object) -> None:
        """Write none: TRL's would say that RLOO trained the model, and the run directory says more."""

    def evaluate(self, *arguments, **named) -> dict[str, float]:
        """Answer the validation prompts and have the user react; training goes on as if nobody had asked."""
        latest, self.user.round = self.latest, VALIDATION_ROUND
        device = self.accelerator.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.args.seed + self.accelerator.process_index)
            try:
                return super().evaluate(*arguments, **named)
            finally:
                self.latest = latest

    def _generate_single_turn(self, *arguments: object) -> list[list[int]]:
        # Continuous batching would cast the weights to bf16 for good; its forwards run under autocast all the same.
        bf16 = self.args.bf16
        self.args.bf16 = bf16 and not self.use_transformers_continuous_batching
        try:
            return super()._generate_single_turn(*arguments)
        finally:
            self.args.bf16 = bf16

    def _tokenize_prompts(self, prompts: list[list[Message]]) -> tuple[list[list[int]], None, dict]:
        return [encode_prompt(self.processing_class, prompt) for prompt in prompts], None, {}

    def _generate_and_score_completions(self, inputs: list[dict]) -> dict:
        prompts = [row["prompt"] for row in inputs]
        answers = self._replayed(inputs) if "completion" in inputs[0] else self._answered(prompts)
        contexts, usable_B = self._contexts(prompts, answers)
        with self.record.timed("scoring"):
            targets = self.hindsight.teacher_targets(contexts, answers.completion_ids)
            self.record.forwards += self.hindsight.forwards(len(contexts))
        moved_B = torch.tensor([target.moved for target in targets], device=usable_B.device)
        self.record.unmoved += (usable_B & ~moved_B).sum().item()
        self.record.rows += len(prompts)
        self.record.completions += answers.texts
        self.record.repetition += sum(map(repeated_share, answers.completion_ids))
        if self.is_satisfied:
            self.record.stated_satisfied = (self.record.stated_satisfied or 0) + sum(
                map(self.is_satisfied, answers.follow_ups)
            )
        self.latest = answers.prompt_ids, answers.completion_ids
        return {
            # First, for TRL divides all by the first one's length.
            "weights_B": self._row_weights(usable_B, usable_B & moved_B),
            "usable_B": usable_B,
            "targets": targets,
            "contexts": contexts,
            "completion_ids": answers.completion_ids,
            "text": [
                {"prompt": prompt[-1]["content"], "completion": text, "follow_up": follow_up}
                for prompt, text, follow_up in zip(prompts, answers.texts, answers.follow_ups, strict=True)
            ],
        }

    def _answered(self, prompts: list[list[Message]]) -> "_Answers":
        """Return new answers and the user's follow-ups, who reads some while the next are generated."""
        size = self.args.generation_batch or len(prompts)
        answers, asked, asking = _Answers(), [], None
        first_round = getattr(self.user, "round", 0)
        for number, start in enumerate(range(0, len(prompts), size)):
            part = prompts[start : start + size]
            with self.record.timed("generation"):
                prompt_ids, completion_ids, completions = self._generate(part)
            texts = [messages[0]["content"] for messages in completions]
            answers.add(prompt_ids, completion_ids, texts)
            ask = partial(self._ask, first_round + number, [prompt[-1]["content"] for prompt in part], texts)
            if size < len(prompts):
                asking = BackgroundRequest(ask, after=asking)
                asked.append((ask, asking.result))
            else:
                asked.append((ask, ask))
        with self.record.timed("user"):
            for ask, result in asked:
                answers.follow_ups += self._collect_follow_ups(result, partial(_after_background_request, asking, ask))
        return answers

    def _replayed(self, rows: list[dict]) -> "_Answers":
        """Return the rows' own answers and follow-ups."""
        prompt_ids, _, _ = self._tokenize_prompts([row["prompt"] for row in rows])
        answers = _Answers(follow_ups=[row["follow_up"] for row in rows])
        completions = [row["completion"] for row in rows]
        answers.add(prompt_ids, [encode_completion(self.processing_class, text) for text in completions], completions)
        return answers

    def _ask(self, number: int, prompts: list[str], completions: list[str]) -> list[str]:
        self.user.round = number  # by its place, so that a step that is begun again asks the same
        return [reply.text for reply in self.user.react(prompts, completions)]

    def _collect_follow_ups(self, result: Callable[[], list[str]], again: Callable[[], list[str]]) -> list[str]:
        """Return the user's follow-ups. Raises SdpoError on every process where any of them was left without."""
        while True:
            texts, failure = [], None
            try:
                texts = result()
            except SdpoError as error:
                failure, result = error, again
            # Together: one process alone could not save, and the others would wait for it.
            failures = [found for found in gather_object([failure]) if found is not None]
            if not failures:
                return texts
            # First what no waiting mends.
            failure = min(failures, key=lambda found: isinstance(found, SimulatorUnavailable))
            if self.wait_for_user is None or not isinstance(failure, SimulatorUnavailable):
                raise failure
            self.wait_for_user(failure)

    def _contexts(self, prompts: list[list[Message]], answers: "_Answers") -> tuple[list[Contexts], Tensor]:
        """Return the contexts to score each completion after, and which rows have a follow-up that can be used.

        A row without one is scored after its bare prompt, so that every process runs the same forwards.
        """
        contexts, usable = [], []
        columns = (prompts, answers.prompt_ids, answers.completion_ids, answers.follow_ups)
        for prompt, bare, completion, follow_up in zip(*columns, strict=True):
            shown = {
                name: self._hindsight_context(prompt, text) if follow_up and text else bare
                for name, text in (("hindsight", follow_up), ("unrelated", self.unrelated_follow_up))
            }
            fits = max(map(len, shown.values())) + len(completion) <= self._context_limit
            finished = completion[-1] in self.eos_token_ids
            self.record.empty += not follow_up
            self.record.too_long += not fits
            self.record.truncated += not finished
            learnable = self.hindsight.has_trainable_tokens(completion) and (
                finished or not self.args.mask_truncated_completions
            )
            usable.append(bool(follow_up) and fits and learnable)
            contexts.append(Contexts(bare, **(shown if fits else dict.fromkeys(shown, bare))))
        self.record.usable += sum(usable)
        return contexts, torch.tensor(usable, device=self.accelerator.device)

    def _hindsight_context(self, prompt: list[Message], follow_up: str) -> list[int]:
        return encode_prompt(self.processing_class, with_hindsight(prompt, follow_up, self.hindsight_template))

    def _row_weights(self, usable_B: Tensor, taught_B: Tensor) -> Tensor:
        has_trainable_tokens = torch.tensor(
            [int(usable_B.sum()), int(taught_B.sum()), len(usable_B)], device=usable_B.device
        )
        usable, taught, total = self.accelerator.reduce(has_trainable_tokens, reduction="sum").tolist()
        return row_weights(taught_B, max(taught, MINIMUM_TAUGHT_SHARE * usable), total)

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
        # The buffer keeps this for further passes over the same completions; on the first, π_old is π.
        inputs.setdefault("old_logps_BT", result.scores.logps_BT.detach())
        for name, mean in self.record.add(result, inputs["usable_B"]).items():
            # TRL averages these and hands them to the tracker.
            self._metrics["train" if self.model.training else "eval"][f"sdpo/{name}"].append(mean)
        self.record.sample(inputs["text"], inputs["completion_ids"], result, self.processing_class)
        return result.loss


def _after_background_request(asking: BackgroundRequest | None, ask: Callable[[], list[str]]) -> list[str]:
    """Ask when nobody else is being asked: one user hears one question at a time."""
    if asking is not None:
        asking.wait()
    return ask()


@dataclass
class _Answers:
    """What was answered to some prompts, and what the user wrote next."""

    prompt_ids: list[list[int]] = field(default_factory=list)
    completion_ids: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    follow_ups: list[str] = field(default_factory=list)

    def add(self, prompt_ids: list[list[int]], completion_ids: list[list[int]], texts: list[str]) -> None:
        """Put more answers behind these."""
        self.prompt_ids += prompt_ids
        self.completion_ids += completion_ids
        self.texts += texts
