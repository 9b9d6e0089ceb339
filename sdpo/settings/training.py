"""The settings of training and of the simulated user."""

# ruff: noqa: RUF009 (`setting` is a `field`)

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdpo.settings.checks import existing_file, existing_folder, http_address, own_address, template_file
from sdpo.settings.common import MODEL_ELSEWHERE, JobSettings, LaunchSettings, Template
from sdpo.settings.contrast import ContrastSettings
from sdpo.settings.declare import setting
from sdpo.settings.publishing import PublishingSettings

RULE = "rule"  # the value of USER_MODEL_NAME_OR_PATH for a user without a model


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(ContrastSettings, LaunchSettings, PublishingSettings):
    """Training."""

    model: str = setting(
        "Qwen/Qwen3-4B",
        "the model to train: a hub name or a folder",
        alias="model_name_or_path",
        elsewhere=MODEL_ELSEWHERE,
    )
    lr: float = setting(5e-6, "the learning rate", above=0, alias="learning_rate")
    adam_beta1: float = setting(
        0.9, "AdamW's momentum; a lower value forgets an earlier style sooner", at_least=0, below=1
    )
    bs: int = setting(4, "the batch size per device", at_least=1)
    ga: int = setting(1, "gradient accumulation: the number of batches per optimizer step", at_least=1)
    train_n: int | None = setting(None, "the number of training rows to use; if not set, all", at_least=1)
    train_jsonl: Path | None = setting(None, "the training rows")
    val_jsonl: Path | None = setting(None, "the validation rows")
    data_path: Path | None = setting(
        None, "a folder with train.jsonl and validation.jsonl, instead of the two above", check=existing_folder
    )
    teacher: Literal["live", "frozen", "ema", "gated"] = setting(
        "live",
        "the model that scores with hindsight: the current policy (live), the model the run started from (frozen), an "
        "average of the policy (ema), or frozen with refreshes (gated)",
    )
    ema_rate: float = setting(0.05, "how far teacher ema moves towards the policy per step", above=0, at_most=1)
    objective: Literal["token", "full", "top_k", "sft"] = setting(
        "token",
        "what policy and teacher are compared on: the sampled token, the full vocabulary, or the teacher's TOP_K "
        "most likely tokens; sft: plain fine-tuning on the logged answers, as the baseline",
    )
    direction: Literal["reverse", "forward", "jsd"] = setting(
        "reverse", "the divergence of objectives full and top_k: KL(policy|teacher), KL(teacher|policy), or JSD"
    )
    top_k: int = setting(
        20, "the number of the teacher's most likely tokens for objective top_k; all others are merged", at_least=1
    )
    centre_signal: bool = setting(True, "subtract the signal's mean over each answer (objective token)")
    clip_signal: float | None = setting(
        None, "clip the signal of a token to ± this many nats (objective token)", above=0
    )
    ignore_first_k: int = setting(0, "ignore the first N tokens of an answer", at_least=0)
    learn_from: Literal["all", "complaints"] = setting(
        "all",
        "the follow-ups to learn from: all, or complaints and wishes alone, neither thanks nor new topics",
    )
    rehearsal: float = setting(
        0.0,
        "the weight of the divergence from the start model on its own short answers to general prompts, some of which "
        "join each step; 0 is off",
        at_least=0,
    )
    rehearsal_jsonl: Path | None = setting(
        None,
        "the prompts of REHEARSAL, a file of prompts such as VAL_JSONL; if not set, 36 short ones that are shipped",
        check=existing_file,
    )
    mask_truncated: bool = setting(False, "ignore truncated answers")
    guard: Literal["off", "warn", "stop"] = setting(
        "stop", "the guard against policy collapse: off, warn, or stop the run"
    )
    adapter: Literal["none", "lora", "qlora"] = setting(
        "none", "train all weights, an adapter, or an adapter on 4-bit weights"
    )
    lora_rank: int = setting(32, "the adapter's rank", at_least=1)
    lora_alpha: float = setting(64.0, "the adapter's scale, divided by the rank", above=0)
    lora_dropout: float = setting(0.0, "the adapter's dropout", at_least=0, below=1)
    lora_targets: str = setting("all-linear", "the layers with an adapter: all-linear, or names separated by commas")
    merge_adapter: bool = setting(False, "after training also write the model with the adapter merged in")
    save_steps: int = setting(3, "write a checkpoint every N steps", at_least=1)
    log_steps: int = setting(3, "log every N steps", at_least=1)
    save_only_model: bool = setting(
        False,
        "write checkpoints with the weights alone, without the optimizer: a third of the size when all weights are "
        "trained, but a run that is interrupted cannot be resumed",
    )
    save_limit: int | None = setting(None, "the number of checkpoints to keep; if not set, all", at_least=1)
    resume: Literal["auto", "never"] = setting("auto", "resume the run in the run directory, or refuse to")
    eval_n: int = setting(
        0, "the number of validation prompts to answer before and after training; 0 is off", at_least=0
    )
    eval_batch_size: int = setting(16, "the batch size for these answers", at_least=1)
    gradient_checkpointing: bool = setting(True, "save memory by recomputing activations in the backward pass")
    optimizer: Literal["auto", "adamw", "adamw_8bit"] = setting("auto", "auto: 8-bit AdamW on a GPU, AdamW elsewhere")
    precision: Literal["auto", "bf16", "fp32"] = setting("auto", "auto: bf16 on a GPU, fp32 elsewhere")
    hindsight_template: Template = setting("before", "where the follow-up is shown in hindsight, and in which words")
    hindsight_file: Path | None = setting(
        None, "a file with other words for the template; it must contain {follow_up}", check=template_file
    )

    @property
    def needs_start_model(self) -> bool:
        """Whether the weights that the run starts from are kept while it trains: what is measured needs them."""
        return self.guard != "off" or bool(self.eval_n) or bool(self.rehearsal)

    @property
    def step_rows(self) -> int:
        """The number of rows that an optimizer step takes, of all processes."""
        return self.bs * self.ga * self.world_size


@dataclass(frozen=True, kw_only=True)
class OnlineSettings(TrainingSettings):
    """Online training and its simulated user."""

    train_n: int = setting(256, "the number of training rows to use", at_least=1)
    lr_schedule: Literal["constant", "linear", "cosine"] = setting(
        "constant", "how LR changes over the run: not at all, or down to 0"
    )
    objective: Literal["token", "full", "top_k"] = setting(
        "token",
        "what policy and teacher are compared on: the sampled token, the full vocabulary, or the teacher's TOP_K "
        "most likely tokens",
    )
    replay_jsonl: Path | None = setting(
        None,
        "a file of answers and follow-ups to train on instead of new ones, such as a run's samples.jsonl",
        check=existing_file,
    )
    user_model_name_or_path: str = setting(
        "Qwen/Qwen3-4B",
        "the model of the simulated user; rule: a rule plays it without a model, for styles it can check",
    )
    style: str = setting("concise_casual_beginner", "the style that the user wants, by name")
    style_file: Path | None = setting(None, "a JSON file with your own styles", check=existing_file)
    simulator_url: str | None = setting(
        None, "an OpenAI-compatible server with the user's model; if not set, the job starts one", check=http_address
    )
    simulator_gpu: str | None = setting(
        None, "the GPU of the server that the job starts; if not set, the first one that the trainer does not use"
    )
    concurrency: int = setting(32, "the maximum number of requests in flight, of all processes together", at_least=1)
    simulator_timeout: float = setting(120.0, "the seconds that a reply may take, retries included", above=0)
    simulator_wait: float = setting(
        900.0, "the seconds to wait, after a checkpoint, for a user's server that does not respond", at_least=0
    )
    simulator_api_key: str | None = setting(None, "for a SIMULATOR_URL that requires a key", secret=True)
    max_cost: float | None = setting(
        None, "stop with a checkpoint before the user costs more US dollars than this", above=0
    )
    price_file: Path | None = setting(None, "a JSON file of prices, instead of the shipped one", check=existing_file)
    user_temperature: float = setting(0.7, "the sampling temperature of the user", at_least=0)
    user_max_tokens: int = setting(128, "the maximum length of a follow-up", at_least=1)
    user_states_satisfaction: bool = setting(
        True, "ask a user that is a model to state in its reply whether it is satisfied"
    )
    user_trial: Literal["stop", "warn", "off"] = setting(
        "stop",
        "before training put answers to the user of which it is known whether they fit the style, and stop the run or "
        "warn if the reactions are wrong",
    )
    max_prompt_tokens: int = setting(512, "longer prompts are left out and counted", at_least=1)
    max_completion_tokens: int = setting(258, "the maximum length of an answer", at_least=1)
    generation: Literal["transformers", "continuous_batching", "vllm_colocate", "vllm_server"] = setting(
        "transformers", "the engine that generates the answers"
    )
    generation_batch: int | None = setting(
        None,
        "the number of answers a process generates at a time, while the user replies to the last ones; if not set, all",
        at_least=1,
    )
    vllm_url: str | None = setting(None, "the vLLM server for GENERATION=vllm_server", check=http_address)
    content_weight: float = setting(
        0.0,
        "with LEARN_FROM=complaints, the weight of answers that users are satisfied with: these are drawn towards the "
        "teacher without a follow-up; 0 leaves them out",
        at_least=0,
        at_most=1,
    )
    focus: float = setting(
        0.0,
        "down-weight tokens that the follow-up moves by fewer nats than this, ignore answers with no others; 0 is off",
        at_least=0,
    )
    iterations: int = setting(1, "optimizer passes over each batch of rollouts (TRL's num_iterations)", at_least=1)
    clip: float = setting(
        0.2, "the clipping range of the token ratio; has an effect from the second iteration on", above=0
    )
    temperature: float = setting(1.0, "the sampling temperature of the answers", above=0)
    eval_steps: int = setting(
        0,
        "every N steps answer the EVAL_N prompts, get follow-ups from the user, log both and the signal; 0 is never",
        at_least=0,
    )

    @property
    def needs_start_model(self) -> bool:
        """Whether they are kept; also to read follow-ups with, all of a run by the same model."""
        return super().needs_start_model or self.learn_from == "complaints"

    @property
    def asks_user(self) -> bool:
        """Whether the run needs a simulated user: not if answers and follow-ups are replayed from a file."""
        return self.replay_jsonl is None

    @property
    def user_is_rule(self) -> bool:
        """Whether a rule plays the user, in the training process and without a model."""
        return self.user_model_name_or_path == RULE

    @property
    def user_needs_server(self) -> bool:
        """Whether an OpenAI-compatible server plays the user: a given one, or one started for the job."""
        return not (self.user_is_claude or self.user_is_rule)

    @property
    def user_is_claude(self) -> bool:
        """Whether the user is Claude behind Anthropic's API: a claude- model, and no SIMULATOR_URL."""
        return self.simulator_url is None and self.user_model_name_or_path.startswith("claude-")


@dataclass(frozen=True, kw_only=True)
class SimulatorSettings(JobSettings):
    """The simulated user's server."""

    user_model_name_or_path: str = setting("Qwen/Qwen3-4B", "the model of the simulated user")
    port: int = setting(8000, "the port to listen on", at_least=1, below=65536)
    simulator_host: str = setting(
        "127.0.0.1",
        "the address to listen on; the server has no API key, so restrict access to any other address than this",
        check=own_address,
    )
    simulator_gpu: str | None = setting(None, "the GPU to use; if not set, the first visible one, or the CPU")
