"""Online SDPO: answer, let the user react, score the answer again in hindsight, update.

TRL's RLOOTrainer generates, buffers, logs and saves. Ours are the tokenizing of prompts, what happens
between an answer and its loss, and the loss. Beside generation an optimizer step costs two forwards
a row: the teacher's after `x, o`, and the policy's after `x`, whose log-probabilities carry the gradient
and give the signal at once.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import PreTrainedModel
from trl import RLOOConfig, RLOOTrainer

from sdpo import objective
from sdpo.chat import encode_prompt
from sdpo.errors import SdpoError, SimulatorGone
from sdpo.prompts import HINDSIGHT, Message, with_hindsight
from sdpo.scoring import Scores, score
from sdpo.simulator import SimulatedUser
from sdpo.train.teacher import Teacher


@dataclass
class OnlineConfig(RLOOConfig):
    """RLOO's configuration with one completion per prompt, and what SDPO adds."""

    num_generations: int = 1
    centre_signal: bool = True
    teacher: str = "live"
    hindsight_template: str = HINDSIGHT

    def __post_init__(self) -> None:
        # RLOO compares completions of one prompt, so it refuses a single one, as the last thing it does.
        try:
            super().__post_init__()
        except ValueError as error:
            if self.num_generations != 1 or "at least 2 generations" not in str(error):
                raise


@dataclass
class StepRecord:
    """What one process did in one optimizer step; sums, so that processes can be added up."""

    rows: int = 0
    usable: int = 0
    empty: int = 0
    too_long: int = 0
    truncated: int = 0
    tokens: float = 0.0
    loss: float = 0.0
    micro_batches: int = 0
    signal: float = 0.0
    signal_size: float = 0.0
    entropy: float = 0.0
    forwards: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(("generation", "user", "scoring"), 0.0))
    completions: list[str] = field(default_factory=list)
    samples: list[dict] = field(default_factory=list)


class OnlineTrainer(RLOOTrainer):
    """RLOOTrainer whose advantage is the follow-up seen in hindsight. `record` holds the step under way.

    `wait_for_user` returns when a user who went away can be asked again, or raises; without it nobody waits.
    """

    SAMPLES = 4  # interactions of a step that are kept in full

    def __init__(self, *, user: SimulatedUser, model: PreTrainedModel, args: OnlineConfig, **arguments) -> None:
        self.teacher = Teacher(args.teacher, model)
        super().__init__(reward_funcs=[], model=model, args=args, **arguments)
        self.teacher.prepare(self.accelerator)
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
        with self._timed("generation"):
            prompt_ids, completion_ids, completions = self._generate(prompts)
        texts = [messages[0]["content"] for messages in completions]
        with self._timed("user"):
            follow_ups = self._react([prompt[-1]["content"] for prompt in prompts], texts)
        contexts, usable_B = self._hindsight_contexts(prompts, prompt_ids, completion_ids, follow_ups)
        with self._timed("scoring"):
            teacher_logps_BT = self.teacher.logps(contexts, completion_ids, self.args.per_device_train_batch_size)
            self.record.forwards += -(-len(contexts) // self.args.per_device_train_batch_size)
        self.record.rows += len(texts)
        self.record.completions += texts
        self.record.truncated += sum(ids[-1] not in self.eos_token_ids for ids in completion_ids)
        return {
            "teacher_logps_BT": teacher_logps_BT,
            "weights_B": self._row_weights(usable_B),
            "prompt_ids": prompt_ids,
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

    def _hindsight_contexts(
        self, prompts: list, prompt_ids: list, completion_ids: list, follow_ups: list[str]
    ) -> tuple[list[list[int]], Tensor]:
        """Return the context to score each completion after, and which rows have a follow-up that can be used.

        A row without one is scored after its bare prompt, so that every process runs the same forwards.
        """
        contexts, usable = [], []
        for prompt, bare, completion, follow_up in zip(prompts, prompt_ids, completion_ids, follow_ups, strict=True):
            context = bare
            if follow_up:
                hindsight = with_hindsight(prompt, follow_up, self.args.hindsight_template)
                context = encode_prompt(self.processing_class, hindsight)
            fits = len(context) + len(completion) <= self._context_limit
            self.record.empty += not follow_up
            self.record.too_long += not fits
            usable.append(bool(follow_up) and fits)
            contexts.append(context if fits else bare)
        self.record.usable += sum(usable)
        return contexts, torch.tensor(usable, device=self.accelerator.device)

    def _row_weights(self, usable_B: Tensor) -> Tensor:
        counts = torch.tensor([int(usable_B.sum()), len(usable_B)], device=usable_B.device)
        usable, total = self.accelerator.reduce(counts, reduction="sum").tolist()
        return objective.row_weights(usable_B, usable, total)

    def _compute_loss(self, model: torch.nn.Module, inputs: dict) -> Tensor:
        scores = score(model, inputs["prompt_ids"], inputs["completion_ids"])
        # The buffer keeps this for further passes over the same completions; on the first, π_old is π.
        old_logps_BT = inputs.setdefault("old_logps_BT", scores.logps_BT.detach())
        teacher_logps_BT = inputs["teacher_logps_BT"][:, : scores.mask_BT.shape[1]]
        signal_BT = objective.signal(teacher_logps_BT, old_logps_BT, scores.mask_BT)
        advantages_BT = objective.signal(teacher_logps_BT, old_logps_BT, scores.mask_BT, self.args.centre_signal)
        loss = objective.token_loss(
            scores.logps_BT, old_logps_BT, advantages_BT, scores.mask_BT, inputs["weights_B"], self.args.epsilon
        )
        self._note_loss(loss, signal_BT, scores, inputs)
        return loss

    def _note_loss(self, loss: Tensor, signal_BT: Tensor, scores: Scores, inputs: dict) -> None:
        record, usable_B1 = self.record, (inputs["weights_B"] > 0).float()[:, None]
        sums = {
            "tokens": scores.mask_BT.sum().item(),
            "signal": (signal_BT * usable_B1).sum().item(),
            "signal_size": (signal_BT.abs() * usable_B1).sum().item(),
            "entropy": (scores.entropy_BT * scores.mask_BT).sum().item(),
        }
        for name, value in sums.items():
            setattr(record, name, getattr(record, name) + value)
            if name != "tokens":  # TRL averages these and hands them to the tracker
                self._metrics["train"][f"sdpo/{name}"].append(value / sums["tokens"])
        record.forwards += 1
        record.micro_batches += 1
        record.loss += loss.item()
        for row in range(min(self.SAMPLES - len(record.samples), len(signal_BT))):
            ids = inputs["completion_ids"][row]
            tokens = [self.processing_class.decode([token]) for token in ids]
            signal = [round(value, 4) for value in signal_BT[row, : len(ids)].tolist()]
            record.samples.append({**inputs["text"][row], "tokens": tokens, "signal": signal})

    def _timed(self, part: str) -> "_Timer":
        return _Timer(self.record.seconds, part)


class _Timer:
    """Adds the seconds spent inside to `seconds[part]`, the device's queue included."""

    def __init__(self, seconds: dict[str, float], part: str) -> None:
        self.seconds, self.part = seconds, part

    def __enter__(self) -> None:
        self.started = _now()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.part] += _now() - self.started


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
