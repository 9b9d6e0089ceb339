"""One online training run: its prompts, its simulated user, and waiting for a user who does not respond."""

import itertools
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PreTrainedModel, TrainerCallback

from sdpo.errors import SettingError
from sdpo.models.policy import adapter_config
from sdpo.runtime import processes
from sdpo.settings.inputs import read_template
from sdpo.text.chat import encode_prompt
from sdpo.text.prompts import Message
from sdpo.text.records import read_replays
from sdpo.train.objective import build_objective
from sdpo.train.online.api_cost import ApiCostCallback
from sdpo.train.online.data import read_training_prompts, read_validation_prompts, replay_rows, training_prompts
from sdpo.train.online.passes import PassesCallback
from sdpo.train.online.reconnect import ReconnectCallback, RoundCallback
from sdpo.train.online.sampling import OnlineConfig
from sdpo.train.online.trainer import OnlineTrainer
from sdpo.train.online.user import build_rule_user, build_user, user_url
from sdpo.train.online.user_trial import try_user
from sdpo.train.session import Session
from sdpo.users.rule_user import RuleUser
from sdpo.users.simulator import SimulatedUser
from sdpo.users.styles import persona_of

if TYPE_CHECKING:
    from sdpo.settings import OnlineSettings


class OnlineSession(Session[OnlineConfig]):
    """Trains on answers that the policy samples, and on a simulated user's follow-ups.

    With REPLAY_JSONL it trains on recorded ones instead, and `user` is None. `api_cost` and `reconnect` are None for a
    user that is not behind an API.
    """

    settings: "OnlineSettings"
    trainer: OnlineTrainer
    user: SimulatedUser | RuleUser | None = None
    api_cost: ApiCostCallback | None = None
    reconnect: ReconnectCallback | None = None

    def configure(self, shared: dict[str, Any]) -> OnlineConfig:
        """Return the configuration of TRL's trainer, with one completion per prompt and no KL term."""
        settings = self.settings
        return OnlineConfig(
            **shared,
            lr_scheduler_type=settings.lr_schedule,
            num_train_epochs=1,
            max_grad_norm=1.0,
            num_iterations=settings.iterations,
            max_completion_length=settings.max_completion_tokens,
            temperature=settings.temperature,
            beta=0.0,
            # A process whose user replies at once waits for those whose user takes until the timeout.
            ddp_timeout=1800 + int(settings.simulator_timeout) * settings.bs * settings.ga,
            chat_template_kwargs={"enable_thinking": False},
            mask_truncated_completions=settings.mask_truncated,
            generation_batch=settings.generation_batch,
            use_transformers_continuous_batching=settings.generation == "continuous_batching",
            transformers_continuous_batching_config=batching_cache(settings)
            if settings.generation == "continuous_batching"
            else None,
            use_vllm=settings.generation.startswith("vllm"),
            vllm_mode=settings.generation.removeprefix("vllm_")
            if settings.generation.startswith("vllm")
            else "colocate",
            vllm_server_base_url=settings.vllm_url,
            eval_strategy="steps" if settings.eval_steps else "no",
            eval_steps=settings.eval_steps or None,
            per_device_eval_batch_size=min(settings.eval_batch_size, settings.eval_n or 1),
        )

    def build_trainer(self, config: OnlineConfig, model: PreTrainedModel) -> OnlineTrainer:
        """Return the trainer with its simulated user, whose reply cache is in the run directory."""
        settings = self.settings
        if settings.asks_user and settings.user_is_rule:
            self.user = build_rule_user(settings, self.job)
        elif settings.asks_user:
            self.user = build_user(settings, self.run_dir.path, config.process_index, config.world_size)
        reads_follow_ups = self.oracle is not None and (self.oracle.reads_any_user or settings.user_is_rule)
        return OnlineTrainer(
            user=self.user,
            model=model,
            teacher=self.teacher,
            start=self.start_scorer,
            objective=build_objective(settings, settings.top_k, clip=settings.clip, focus=settings.focus),
            args=config,
            train_dataset=self._dataset(),
            eval_dataset=self._validation_dataset() if settings.eval_steps else None,
            processing_class=self.tokenizer,
            hindsight_template=read_template(settings.hindsight_template, settings.hindsight_file),
            null_follow_up=settings.null_follow_up,
            is_satisfied=self.oracle.is_satisfied if self.oracle is not None and reads_follow_ups else None,
            complaints_only=settings.learn_from == "complaints",
            content_weight=settings.content_weight if settings.learn_from == "complaints" else 0.0,
            peft_config=adapter_config(settings),
        )

    def run(self) -> bool:
        """Try the user, then train as every session does.

        Raises SdpoError if the user fails its trial, or if most of its replies in the first steps cannot be used.
        """
        try_user(self.trainer, self.oracle, self.settings, self.run_dir, after_asking=self.before_saving_now)
        if isinstance(self.user, SimulatedUser):
            self.user.watch_first_replies()
        return super().run()

    def facts(self) -> dict[str, str]:
        """Return what an evaluation has to know, including the user's persona."""
        return {**super().facts(), "persona": persona_of(self.settings.style, self.settings.style_file)}

    def callbacks(self) -> list[TrainerCallback]:
        """Return the callbacks that track the API cost, wait for a user who does not respond, and time checkpoints."""
        passes = PassesCallback(self.trainer)
        if self.user is None:
            return [passes]
        if isinstance(self.user, RuleUser):
            return [RoundCallback(self.user), passes]
        self.api_cost = ApiCostCallback(self.run_dir, self.trainer, self.user.client, self.settings.log_steps)
        self.reconnect = ReconnectCallback(
            self.trainer,
            self.user,
            user_url(self.settings),
            self.settings.simulator_wait,
            self.save_now,
            lambda: self.stop.requested,
            started_for_job=processes.simulator_started_for_job(self.settings),
        )
        self.trainer.wait_for_user = self.reconnect.wait
        return [self.api_cost, self.reconnect, passes]

    def validation_prompts(self) -> list[list[Message]]:
        """Return the first EVAL_N validation prompts."""
        rows = training_prompts(read_validation_prompts(self.settings, self.job), self.job)
        return [row["prompt"] for row in rows[: self.settings.eval_n]]

    def at_step_start(self) -> AbstractContextManager:
        """Return a context manager that restores the random states from the start of the current step."""
        return self.reconnect.random if self.reconnect else nullcontext()

    def before_saving_now(self) -> None:
        """Write the API cost so far."""
        if self.api_cost:
            self.api_cost.write()

    def _validation_dataset(self) -> Dataset:
        return Dataset.from_list([{"prompt": messages} for messages in self.validation_prompts()])

    def _dataset(self) -> Dataset:
        settings = self.settings
        if settings.replay_jsonl is not None:
            return Dataset.from_list(replay_rows(read_replays(settings.replay_jsonl), self.job)[: settings.train_n])
        rows = training_prompts(read_training_prompts(settings, self.job), self.job)
        lengths = (len(encode_prompt(self.tokenizer, row["prompt"])) for row in rows)
        short_enough = (index for index, length in enumerate(lengths) if length <= settings.max_prompt_tokens)
        indices = list(itertools.islice(short_enough, settings.train_n))
        if self.main and indices:
            skipped = indices[-1] + 1 - len(indices)
            print(f"{len(indices)} prompts; skipped {skipped} over {settings.max_prompt_tokens} tokens", flush=True)
        if len(indices) < settings.train_n:
            raise SettingError(
                f"TRAIN_N={settings.train_n}, but {settings.train_jsonl} has only {len(indices)} prompts of at most "
                f"{settings.max_prompt_tokens} tokens. Lower TRAIN_N or raise MAX_PROMPT_TOKENS."
            )
        return Dataset.from_list([rows[index] for index in indices])


def batching_cache(settings: "OnlineSettings") -> dict[str, int]:
    """Return what continuous batching allocates: a cache for the longest rows of a step, in blocks of 256 tokens.

    By itself it takes most of the free memory in every step, and the time to clear it.
    """
    longest = settings.max_prompt_tokens + settings.max_completion_tokens
    rows = settings.generation_batch or settings.bs * settings.ga
    return {"num_blocks": rows * (-(-longest // 256) + 1), "max_batch_tokens": max(2048, longest)}
