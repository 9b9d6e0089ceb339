"""The settings of offline training."""

from dataclasses import dataclass
from typing import Literal

from sdpo.settings.declare import setting
from sdpo.settings.training import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class OfflineSettings(TrainingSettings):
    """Offline training on logged conversations."""

    model_name_or_path: str = setting("Qwen/Qwen3-8B", "the model to train: a hub name or a folder", alias="base_model")
    train_n: int | None = setting(None, "use only so many interactions; not set uses all", at_least=1)
    mix: str | None = setting(
        None, "further interactions files and their share of the rows: 'logs/a.jsonl=0.3 logs/b.jsonl=0.2'"
    )
    epochs: int = setting(2, "how often every row is trained on", at_least=1)
    warmup: float = setting(0.05, "the share of the steps over which the learning rate rises", at_least=0, below=1)
    max_grad_norm: float = setting(10.0, "gradients are scaled down to this norm", above=0)
    max_context_tokens: int = setting(
        2048, "longer contexts lose their oldest history, never the follow-up", at_least=1
    )
    max_completion_tokens: int = setting(2048, "longer completions are cut", at_least=1)
    holdout: float = setting(0.0, "the share of conversations to measure loss and signal on only", at_least=0, below=1)
    holdout_steps: int = setting(100, "measure them every so many steps", at_least=1)
    objective: Literal["token", "full", "top_k", "sft"] = setting(
        "token", "as online; sft: plain fine-tuning on the logged answers, the control"
    )
    centre_signal: bool = setting(False, "centre the signal within each sequence")
    ignore_first_k: int = setting(2, "no signal on the first so many tokens of a completion", at_least=0)
    min_signal: float = setting(
        0.0, "leave out rows whose mean |signal| per token under the starting model is smaller", at_least=0
    )
    weight_by_signal: bool = setting(False, "weigh rows by their mean |signal| under the starting model")
    layout: Literal["auto", "packed", "grouped"] = setting(
        "auto", "packed: rows end to end without padding; grouped: rows of like length; auto: packed on a GPU"
    )
    style: str | None = setting(None, "in the tiny world: the taste that answers before and after are read for")
    temperature: float = setting(1.0, "the sampling temperature of those answers", above=0)
