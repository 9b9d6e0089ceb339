"""The settings of training and of the simulated user."""

# ruff: noqa: RUF009 (`setting` is a `field`)

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdpo.settings.checks import existing_file, existing_folder, http_address, own_address, template_file
from sdpo.settings.common import JobSettings, LaunchSettings
from sdpo.settings.declare import setting
from sdpo.text.prompts import UNRELATED_FOLLOW_UP


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(LaunchSettings):
    """Training."""

    model_name_or_path: str = setting("Qwen/Qwen3-4B", "the model to train: a hub name or a folder")
    lr: float = setting(5e-6, "the learning rate", above=0, alias="learning_rate")
    adam_beta1: float = setting(0.9, "AdamW's momentum; less forgets an old taste sooner", at_least=0, below=1)
    bs: int = setting(4, "the batch size per device", at_least=1)
    ga: int = setting(1, "how many batches make one optimizer step", at_least=1)
    train_n: int = setting(256, "how many training rows to use", at_least=1)
    train_jsonl: Path | None = setting(None, "the training rows")
    val_jsonl: Path | None = setting(None, "the validation rows")
    data_path: Path | None = setting(
        None, "a folder with train.jsonl and validation.jsonl, in place of the two above", check=existing_folder
    )
    teacher: Literal["live", "frozen", "ema", "gated"] = setting(
        "live", "which model looks back with hindsight: the current one, the one the run started from, or in between"
    )
    ema_rate: float = setting(0.05, "how far teacher ema follows the policy in a step", above=0, at_most=1)
    objective: Literal["token", "full", "top_k"] = setting(
        "token", "what is compared with hindsight: the sampled token, the vocabulary, or its likeliest tokens"
    )
    direction: Literal["reverse", "forward", "jsd"] = setting(
        "reverse", "the divergence of objectives full and top_k: KL(policy|teacher), KL(teacher|policy), or JSD"
    )
    top_k: int = setting(20, "how many tokens objective top_k tells apart", at_least=1)
    centre_signal: bool = setting(True, "centre the signal within each sequence (objective token)")
    clip_signal: float | None = setting(None, "clip the signal of a token to so many nats (objective token)", above=0)
    ignore_first_k: int = setting(0, "learn nothing from the first so many tokens of an answer", at_least=0)
    null_contrast: bool = setting(False, "take off what an unrelated follow-up does, at two forwards more")
    unrelated_follow_up: str = setting(UNRELATED_FOLLOW_UP, "that unrelated follow-up")
    mask_truncated: bool = setting(False, "learn nothing from answers that were cut off")
    guard: Literal["off", "warn", "stop"] = setting("stop", "watch for collapse: not at all, say so, or stop as well")
    adapter: Literal["none", "lora", "qlora"] = setting(
        "none", "train all weights, an adapter, or an adapter on 4-bit weights"
    )
    lora_rank: int = setting(32, "the adapter's rank", at_least=1)
    lora_alpha: float = setting(64.0, "the adapter's scale, divided by the rank", above=0)
    lora_dropout: float = setting(0.0, "the adapter's dropout", at_least=0, below=1)
    lora_targets: str = setting("all-linear", "the layers that get one: all-linear, or names with commas")
    merge_adapter: bool = setting(False, "at the end also write the model with the adapter merged in")
    save_steps: int = setting(3, "write a checkpoint every so many steps", at_least=1)
    log_steps: int = setting(3, "log every so many steps", at_least=1)
    save_limit: int | None = setting(None, "keep only so many checkpoints; not set keeps all", at_least=1)
    resume: Literal["auto", "never"] = setting("auto", "continue the run in the run folder, or refuse to")
    eval_n: int = setting(0, "how many validation prompts to answer before and after training; 0 is off", at_least=0)
    eval_batch_size: int = setting(16, "the batch size of those answers", at_least=1)
    gradient_checkpointing: bool = setting(True, "save memory by computing activations twice")
    optimizer: Literal["auto", "adamw", "adamw_8bit"] = setting("auto", "auto: 8-bit AdamW on a GPU, AdamW elsewhere")
    precision: Literal["auto", "bf16", "fp32"] = setting("auto", "auto: bf16 on a GPU, fp32 elsewhere")
    hindsight_file: Path | None = setting(
        None, "a file with the hindsight template; it must contain {follow_up}", check=template_file
    )


@dataclass(frozen=True, kw_only=True)
class OnlineSettings(TrainingSettings):
    """Online training and its simulated user."""

    replay_jsonl: Path | None = setting(
        None,
        "answers and follow-ups to train on instead of new ones, such as a run's samples.jsonl",
        check=existing_file,
    )
    user_model_name_or_path: str = setting("Qwen/Qwen3-4B", "the model that plays the user")
    style: str = setting("concise_casual_beginner", "the user's taste, by name")
    style_file: Path | None = setting(None, "a JSON file of tastes of your own: name -> text", check=existing_file)
    simulator_url: str | None = setting(
        None, "an OpenAI-compatible server that plays the user; not set starts one for the job", check=http_address
    )
    simulator_gpu: str | None = setting(
        None, "the GPU of the server started for the job; not set takes the first one the trainer leaves free"
    )
    concurrency: int = setting(32, "how many replies to ask for at once", at_least=1)
    simulator_timeout: float = setting(120.0, "seconds one reply may take, retries included", above=0)
    simulator_wait: float = setting(900.0, "seconds to wait, saved, for a user who went away", at_least=0)
    simulator_api_key: str | None = setting(None, "for a SIMULATOR_URL that asks for a key", secret=True)
    max_cost: float | None = setting(None, "stop, saved, before the user costs more US dollars than this", above=0)
    price_file: Path | None = setting(None, "a JSON file of prices in place of ours", check=existing_file)
    user_temperature: float = setting(0.7, "the sampling temperature of the user", at_least=0)
    user_max_tokens: int = setting(128, "the longest reply of the user", at_least=1)
    max_prompt_tokens: int = setting(512, "longer prompts are left out and counted", at_least=1)
    max_completion_tokens: int = setting(258, "the longest answer", at_least=1)
    generation: Literal["transformers", "continuous_batching", "vllm_colocate", "vllm_server"] = setting(
        "transformers", "what generates the answers"
    )
    generation_batch: int | None = setting(
        None,
        "how many answers a process generates at once; the user reads them during the next; not set: all",
        at_least=1,
    )
    vllm_url: str | None = setting(None, "the server of GENERATION=vllm_server", check=http_address)
    focus: float = setting(
        0.0, "tokens that a follow-up moves by less than so many nats count little, answers without others nothing",
        at_least=0,
    )  # fmt: skip
    iterations: int = setting(1, "how many optimizer passes over one generation", at_least=1)
    clip: float = setting(0.2, "the clip on the token ratio; acts from the second iteration on", above=0)
    temperature: float = setting(1.0, "the sampling temperature of the answers", above=0)
    eval_steps: int = setting(
        0, "every so many steps answer the EVAL_N prompts, ask the user and log reactions and signal; 0: never",
        at_least=0,
    )  # fmt: skip

    @property
    def asks_user(self) -> bool:
        """Whether there is a user to ask: not where answers and follow-ups are replayed."""
        return self.replay_jsonl is None

    @property
    def user_is_claude(self) -> bool:
        """Whether Anthropic's API plays the user: a model of its, and no other server named for it."""
        return self.simulator_url is None and self.user_model_name_or_path.startswith("claude-")


@dataclass(frozen=True, kw_only=True)
class SimulatorSettings(JobSettings):
    """The simulated user's server."""

    user_model_name_or_path: str = setting("Qwen/Qwen3-4B", "the model that plays the user")
    port: int = setting(8000, "the port to listen on", at_least=1, below=65536)
    simulator_host: str = setting(
        "127.0.0.1",
        "the address to listen on; there is no key to it: on others than this keep strangers out",
        check=own_address,
    )
    simulator_gpu: str | None = setting(None, "the GPU to use; not set leaves the choice to the server")
