"""The answers of online training: sampled by TRL's trainer, with the user's follow-ups, or both replayed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Protocol

import torch
from accelerate.utils import gather_object, is_peft_model
from torch import Tensor, nn
from trl import RLOOConfig, RLOOTrainer

from sdpo import progress
from sdpo.errors import RunError, SdpoError, SimulatorUnavailable
from sdpo.method.trees import PromptCache
from sdpo.models.generate import counted_tokens
from sdpo.models.policy import adapted_weights, restore_weights, weights_in_bf16
from sdpo.models.prompt_cache import CacheKeeper, has_dropout
from sdpo.text.chat import encode_answer, encode_prompt
from sdpo.text.hindsight import HindsightTemplate
from sdpo.text.prompts import Message
from sdpo.train.online.background_request import BackgroundRequest
from sdpo.train.record import BaseTrainer
from sdpo.users.simulator import FollowUp


@dataclass
class OnlineConfig(RLOOConfig):
    """RLOOConfig with one completion per prompt.

    `generation_batch` is how many answers a process generates at once; None generates all of a step's.
    """

    num_generations: int = 1
    generation_batch: int | None = None

    def __post_init__(self) -> None:
        # TRL sets the first by its old name, of which transformers warns.
        if self.activation_checkpointing is None:
            self.activation_checkpointing = self.gradient_checkpointing
        # RLOO compares the completions of a prompt, so its last check rejects a single one.
        try:
            super().__post_init__()
        except ValueError as error:
            if self.num_generations != 1 or "at least 2 generations" not in str(error):
                raise


class User(Protocol):
    """A simulated user: any object that writes follow-ups. `round` numbers the calls, see SimulatedUser."""

    round: int

    def react(self, prompts: list[str], completions: list[str]) -> list[FollowUp]:
        """Return a follow-up to each completion. Raises SimulatorUnavailable if any is missing."""
        ...


@dataclass
class Answers:
    """Answers to prompts with the user's follow-ups; the prompts and completions as token ids.

    `cache` has the prompts' keys and values under the current policy, if they were kept.
    """

    prompt_ids: list[list[int]] = field(default_factory=list)
    completion_ids: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    follow_ups: list[FollowUp] = field(default_factory=list)
    cache: PromptCache | None = None

    def add(self, prompt_ids: list[list[int]], completion_ids: list[list[int]], texts: list[str]) -> None:
        """Append answers."""
        self.prompt_ids += prompt_ids
        self.completion_ids += completion_ids
        self.texts += texts


class SamplingTrainer(BaseTrainer, RLOOTrainer):
    """RLOOTrainer as far as an answer and the follow-up to it; see OnlineTrainer for `user` and `wait_for_user`."""

    args: OnlineConfig
    user: User | None
    wait_for_user: Callable[[SimulatorUnavailable], None] | None
    hindsight_template: HindsightTemplate

    @property
    def is_between_passes(self) -> bool:
        """Whether the next step takes its answers from the batch that the last one used (ITERATIONS)."""
        micro_batches = self.state.global_step * self.args.gradient_accumulation_steps
        is_round_over = micro_batches % ((self.args.steps_per_generation or 1) * self.num_iterations) == 0
        return not is_round_over and self.state.global_step < self.state.max_steps

    @cached_property
    def _weights_under_adapter(self) -> dict[nn.Parameter, Tensor]:
        kept = is_peft_model(self.model) and not self.is_fsdp_enabled
        return adapted_weights(self.model) if kept else {}

    @contextmanager
    def _base_weights_kept(self) -> Iterator[None]:
        """Restore the weights under an adapter if vLLM has been given the policy's inside the context.

        TRL adds the adapter to them and subtracts it again, which in bf16 does not give the same weights.
        """
        if not self.use_vllm:
            yield
            return
        saved, synced = self._weights_under_adapter, self._last_loaded_step
        yield
        if self._last_loaded_step != synced:
            restore_weights(saved)

    def _generate_single_turn(self, *arguments: object) -> list[list[int]]:
        """Return the answers' tokens. Raises RunError for an answer without any, as an engine that failed gives it."""
        # With args.bf16 continuous batching would cast the weights to bf16 permanently. They have to be in bf16 while
        # it generates: its cache has their dtype, and autocast makes keys and values bf16.
        if self.use_transformers_continuous_batching:  # it has random numbers of its own
            self.continuous_batching_config.seed = int(torch.randint(2**31, ()))
        bf16, casts = self.args.bf16, self.args.bf16 and self.use_transformers_continuous_batching
        self.args.bf16 = bf16 and not casts
        plain = not (self.use_vllm or self.use_transformers_continuous_batching)  # what calls the model token by token
        counted = counted_tokens(self.model, self.args.max_completion_length) if plain else nullcontext()
        try:
            with weights_in_bf16(self.model) if casts else nullcontext(), counted, self._base_weights_kept():
                completion_ids = super()._generate_single_turn(*arguments)
        finally:
            self.args.bf16 = bf16
        if empty := sum(not ids for ids in completion_ids):
            raise RunError(
                f"{empty} of {len(completion_ids)} answers came back without a token: the engine of GENERATION failed, "
                "see its messages above. Leave it more of the GPU's memory, or set GENERATION=transformers."
            )
        return completion_ids

    def _tokenize_prompts(self, prompts: list[list[Message]]) -> tuple[list[list[int]], None, dict]:
        return [encode_prompt(self.processing_class, prompt) for prompt in prompts], None, {}

    @property
    def _required_user(self) -> User:
        if self.user is None:
            raise RuntimeError("this trainer has no simulated user: it replays recorded follow-ups")
        return self.user

    @cached_property
    def _can_keep_cache(self) -> bool:
        """Whether the prompts' keys and values are of use: to a live teacher that is shown the prompt first.

        Those of a step that is generated in several parts would take too much memory.
        """
        is_prompt_first = self.hindsight_template.place == "after"
        return is_prompt_first and self.hindsight.teacher.kind == "live" and not has_dropout(self.model)

    def _generate_and_ask(self, prompts: list[list[Message]]) -> Answers:
        """Return new answers and the user's follow-ups; the user reads one part while the next is generated."""
        size = self.args.generation_batch or len(prompts)
        answers = Answers()
        requests: list[tuple[Callable[[], list[FollowUp]], Callable[[], list[FollowUp]]]] = []  # a call, and its result
        last_request: BackgroundRequest[list[FollowUp]] | None = None
        first_round = self._required_user.round
        kept = CacheKeeper() if size >= len(prompts) and self._can_keep_cache else None
        for number, start in enumerate(range(0, len(prompts), size)):
            part = prompts[start : start + size]
            keeping = kept.keeping(self.model) if kept else nullcontext()
            under_way = progress.task("generating", len(prompts), "answers", done=start)
            with self.record.timed("generation"), under_way, keeping:
                prompt_ids, completion_ids, completions = self._generate(part)
            texts = [messages[0]["content"] for messages in completions]
            answers.add(prompt_ids, completion_ids, texts)
            ask: Callable[[], list[FollowUp]] = partial(self._ask, first_round + number, part, texts)
            if size < len(prompts):
                last_request = BackgroundRequest(ask, after=last_request)
                requests.append((ask, last_request.result))
            else:
                requests.append((ask, ask))
        if kept:
            answers.cache = kept.take(answers.prompt_ids)
        with self.record.timed("user"), progress.task("follow-ups of the user"):
            for ask, result in requests:
                again = partial(_after_background_request, last_request, ask)
                answers.follow_ups += self.collect_follow_ups(result, again)
        return answers

    def _replay(self, rows: list[dict]) -> Answers:
        """Return the answers and follow-ups that the rows hold."""
        prompt_ids, _, _ = self._tokenize_prompts([row["prompt"] for row in rows])
        answers = Answers(follow_ups=[FollowUp(row["follow_up"], satisfied=row.get("satisfied")) for row in rows])
        completions = [row["completion"] for row in rows]
        finished = [row.get("finished") is not False for row in rows]
        ids = [encode_answer(self.processing_class, *one) for one in zip(completions, finished, strict=True)]
        answers.add(prompt_ids, ids, completions)
        return answers

    def _ask(self, number: int, prompts: list[list[Message]], completions: list[str]) -> list[FollowUp]:
        user = self._required_user
        user.round = number  # fixed by the part's index, so that a repeated step makes the same requests
        return user.react([prompt[-1]["content"] for prompt in prompts], completions)

    def collect_follow_ups(
        self, result: Callable[[], list[FollowUp]], again: Callable[[], list[FollowUp]]
    ) -> list[FollowUp]:
        """Return the user's follow-ups: those of `result`, and after a wait those of `again`.

        Raises SdpoError on every process if any of them failed.
        """
        while True:
            follow_ups: list[FollowUp] = []
            failure: SdpoError | None = None
            try:
                follow_ups = result()
            except SdpoError as error:
                failure, result = error, again
            # All processes decide together: one alone could not save a checkpoint, and the others would wait for it.
            failures = [error for error in gather_object([failure]) if error is not None]
            if not failures:
                return follow_ups
            # Errors that waiting cannot resolve come first.
            first = min(failures, key=lambda error: isinstance(error, SimulatorUnavailable))
            if self.wait_for_user is None or not isinstance(first, SimulatorUnavailable):
                raise first
            self.wait_for_user(first)


def _after_background_request(request: BackgroundRequest | None, ask: Callable[[], list[FollowUp]]) -> list[FollowUp]:
    """Call `ask` once the last background request has ended: a user gets one request at a time."""
    if request is not None:
        request.wait()
    return ask()
