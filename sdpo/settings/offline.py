"""The settings of offline training."""

# ruff: noqa: RUF009 (`setting` is a `field`)

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdpo.settings.checks import existing_file
from sdpo.settings.common import MODEL_ELSEWHERE
from sdpo.settings.declare import setting
from sdpo.settings.training import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class OfflineSettings(TrainingSettings):
    """Offline training on logged conversations."""

    model: str = setting(
        "Qwen/Qwen3-8B",
        "the model to train: a hub name or a folder",
        alias="base_model",
        elsewhere=MODEL_ELSEWHERE,
    )
    mix: str | None = setting(
        None, "further interactions files and their share of the rows: 'logs/a.jsonl=0.3 logs/b.jsonl=0.2'"
    )
    epochs: int = setting(2, "the number of epochs", at_least=1)
    warmup: float = setting(0.05, "the share of the steps in which the learning rate warms up", at_least=0, below=1)
    max_grad_norm: float = setting(10.0, "gradients are clipped to this norm", above=0)
    max_context_tokens: int = setting(
        2048, "longer contexts lose their oldest history, never the follow-up", at_least=1
    )
    max_completion_tokens: int = setting(2048, "longer completions are truncated", at_least=1)
    holdout: float = setting(
        0.0, "the share of conversations held out to measure loss and signal on", at_least=0, below=1
    )
    holdout_steps: int = setting(100, "measure loss and signal on them every N steps", at_least=1)
    centre_signal: bool = setting(False, "subtract the signal's mean over each answer")
    ignore_first_k: int = setting(2, "ignore the signal on the first N tokens of a completion", at_least=0)
    min_signal: float = setting(
        0.0, "leave out rows whose mean |signal| per token under the starting model is smaller", at_least=0
    )
    weight_by_signal: bool = setting(False, "weight rows by their mean |signal| under the starting model")
    layout: Literal["auto", "packed", "grouped"] = setting(
        "auto", "packed: rows concatenated without padding; grouped: rows of similar length; auto: packed on a GPU"
    )
    style: str | None = setting(
        None, "the style by which answers before and after training are measured, for one that a rule can check"
    )
    style_file: Path | None = setting(None, "a JSON file with your own styles", check=existing_file)
    temperature: float = setting(1.0, "the sampling temperature of those answers", above=0)

    def epoch_steps(self, rows: int) -> int:
        """Return the optimizer steps of an epoch over so many rows. Rows that fill no batch of all processes wait."""
        return -(-(rows // (self.bs * self.world_size)) // self.ga)

    def waiting(self, rows: int) -> str:
        """Return, after a comma, how many of so many rows each epoch leaves out; "" if none."""
        rest = rows % (self.bs * self.world_size)
        return f", each without {rest:,} rows, drawn anew, that fill no batch" if rest else ""
