"""One online training run: a user who reacts, and what happens when that user is away."""

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
from sdpo.text.records import read_prompts, read_replays
from sdpo.train.online import user as user_module
from sdpo.train.online.api_cost import ApiCostCallback
from sdpo.train.online.data import replay_rows, training_prompts
from sdpo.train.online.reconnect import ReconnectCallback
from sdpo.train.online.trainer import OnlineConfig, OnlineTrainer
from sdpo.train.session import Session
from sdpo.users.simulator import persona_of

if TYPE_CHECKING:
    from sdpo.settings import OnlineSettings


class OnlineSession(Session):
    """Trains on answers sampled now and a simulated user's reactions to them."""

    settings: "OnlineSettings"
    trainer: OnlineTrainer

    def configure(self, shared: dict[str, Any]) -> OnlineConfig:
        """Return the configuration of TRL's trainer, with one answer a prompt and no KL term."""
        settings = self.settings
        return OnlineConfig(
            **shared,
            lr_scheduler_type="constant",
            num_train_epochs=1,
            max_grad_norm=1.0,
            num_iterations=settings.iterations,
            max_completion_length=settings.max_completion_tokens,
            temperature=settings.temperature,
            beta=0.0,
            # A process whose user answers at once waits for those whose user takes all the time it has.
            ddp_timeout=1800 + int(settings.simulator_timeout) * settings.bs * settings.ga,
            chat_template_kwargs={"enable_thinking": False},
            mask_truncated_completions=settings.mask_truncated,
            generation_batch=settings.generation_batch,
            use_transformers_continuous_batching=settings.generation == "continuous_batching",
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
        """Return the trainer with its user, who keeps replies in the run directory."""
        settings = self.settings
        user = None
        if settings.asks_user:
            user = user_module.build_user(settings, self.run_dir.path, config.process_index, config.world_size)
        return OnlineTrainer(
            user=user,
            model=model,
            teacher=self.teacher,
            objective=self.objective(clip=settings.clip, focus=settings.focus),
            args=config,
            train_dataset=self._dataset(),
            eval_dataset=self._validation_dataset() if settings.eval_steps else None,
            processing_class=self.tokenizer,
            hindsight_template=read_template(settings.hindsight_file),
            unrelated_follow_up=settings.unrelated_follow_up,
            is_satisfied=self.oracle.is_satisfied if self.oracle is not None else None,
            peft_config=adapter_config(settings),
        )

    def facts(self) -> dict[str, str]:
        """Return what an evaluation has to know, the user's taste among it."""
        return {**super().facts(), "persona": persona_of(self.settings.style, self.settings.style_file)}

    def callbacks(self) -> list[TrainerCallback]:
        """Return what counts the user's cost, and what waits for a user who went away."""
        user = self.trainer.user
        if user is None:
            return []
        self.spending = ApiCostCallback(self.run_dir, self.trainer, user.client, self.settings.log_steps)
        self.patience = ReconnectCallback(
            self.trainer,
            user,
            user_module.address(self.settings),
            self.settings.simulator_wait,
            self.save_now,
            lambda: self.stop.requested,
            ours=processes.simulator_started_for_job(self.settings),
        )
        self.trainer.wait_for_user = self.patience.wait
        return [self.spending, self.patience]

    def validation_prompts(self) -> list[list[Message]]:
        """Return EVAL_N validation prompts."""
        rows = training_prompts(read_prompts(self.settings.val_jsonl, self.job.data_command), self.job)
        return [row["prompt"] for row in rows[: self.settings.eval_n]]

    def at_step_start(self) -> AbstractContextManager:
        """Return the random states that the step under way began with."""
        return self.patience.random if self.trainer.user else nullcontext()

    def before_saving_now(self) -> None:
        """Write what the user has cost so far."""
        if self.trainer.user:
            self.spending.write()

    def _validation_dataset(self) -> Dataset:
        return Dataset.from_list([{"prompt": messages} for messages in self.validation_prompts()])

    def _dataset(self) -> Dataset:
        settings = self.settings
        if not settings.asks_user:
            return Dataset.from_list(replay_rows(read_replays(settings.replay_jsonl), self.job)[: settings.train_n])
        rows = training_prompts(read_prompts(settings.train_jsonl, self.job.data_command), self.job)
        lengths = (len(encode_prompt(self.tokenizer, row["prompt"])) for row in rows)
        fitting = (place for place, length in enumerate(lengths) if length <= settings.max_prompt_tokens)
        places = list(itertools.islice(fitting, settings.train_n))
        kept = [rows[place] for place in places]
        if self.main and kept:
            left_out = places[-1] + 1 - len(places)
            limit = settings.max_prompt_tokens
            print(f"{len(kept)} prompts; {left_out} on the way were over {limit} tokens and left out", flush=True)
        if len(kept) < settings.train_n:
            raise SettingError(
                f"TRAIN_N={settings.train_n}, but {settings.train_jsonl} has only {len(kept)} prompts of at most "
                f"{settings.max_prompt_tokens} tokens. Lower TRAIN_N or raise MAX_PROMPT_TOKENS."
            )
        return Dataset.from_list(kept)
