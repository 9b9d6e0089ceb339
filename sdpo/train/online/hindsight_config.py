"""The configuration of HindsightTrainer: TRL's, and the settings of the method under the names that the jobs use."""
# ruff: noqa: RUF009 (`_declared` is a `field`)

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch

from sdpo.errors import nearest
from sdpo.settings import settings_of
from sdpo.settings.common import Template
from sdpo.settings.recipes import RECIPES
from sdpo.settings.training import OnlineSettings
from sdpo.train.online.sampling import OnlineConfig

_DECLARED = settings_of(OnlineSettings)
# Fields with the limits and defaults of the job's setting of the same name, or of another one.
METHOD = (
    "teacher", "ema_rate", "objective", "direction", "teacher_top_k", "centre_signal", "clip_signal", "ignore_first_k",
    "focus", "null_contrast", "null_follow_up", "contrast_strength", "contrast_margin", "contrast_plausibility",
    "learn_from", "content_weight", "rehearsal", "guard", "hindsight_template",
)  # fmt: skip
# Fields that have an effect only with some values of another one; `check_objective` has these rules for the jobs.
_EFFECT = (
    ("ema_rate", "teacher", ("ema",)),
    ("direction", "objective", ("full", "top_k")),
    ("teacher_top_k", "objective", ("top_k",)),
    ("centre_signal", "objective", ("token",)),
    ("clip_signal", "objective", ("token",)),
    ("contrast_strength", "null_contrast", (True,)),
    ("contrast_margin", "null_contrast", (True,)),
    ("contrast_plausibility", "null_contrast", (True,)),
    ("contrast_plausibility", "objective", ("full", "top_k")),
    ("content_weight", "learn_from", ("complaints",)),
)
_OTHER_NAMES = {"teacher_top_k": "top_k", "learning_rate": "lr", "num_iterations": "iterations"}
# What TRL calls a setting of the jobs.
_TRL_NAMES = {
    "lr": "learning_rate", "iterations": "num_iterations", "bs": "per_device_train_batch_size",
    "ga": "gradient_accumulation_steps", "lr_schedule": "lr_scheduler_type", "warmup": "warmup_steps",
    "max_completion_tokens": "max_completion_length", "log_steps": "logging_steps",
}  # fmt: skip


def _declared(name: str) -> Any:
    """Return a field with the default and the help of the job's setting of this name."""
    declared = _DECLARED[name]
    return field(default=declared.default, metadata={"help": declared.help})


@dataclass
class HindsightConfig(OnlineConfig):
    """The arguments of HindsightTrainer: those of TRL's RLOOConfig, and the fields below.

    Their defaults are those of the jobs; `recommended` returns the settings that did best on real models. Fields of
    RLOO about rewards have no effect. Raises ValueError for a value that is not allowed, or would have no effect.
    """

    num_train_epochs: float = field(default=1.0, metadata={"help": "passes over the prompts, as the jobs make one"})
    learning_rate: float = _declared("lr")
    lr_scheduler_type: str = field(default="constant", metadata={"help": _DECLARED["lr_schedule"].help})
    per_device_train_batch_size: int = _declared("bs")
    max_completion_length: int | None = _declared("max_completion_tokens")
    beta: float = field(default=0.0, metadata={"help": "has to be 0: `rehearsal` is what holds the model to its start"})

    teacher: Literal["live", "frozen", "ema", "gated"] = _declared("teacher")
    ema_rate: float = _declared("ema_rate")
    objective: Literal["token", "full", "top_k"] = _declared("objective")
    direction: Literal["reverse", "forward", "jsd"] = _declared("direction")
    teacher_top_k: int = _declared("top_k")  # `top_k` is TRL's, for sampling answers
    centre_signal: bool = _declared("centre_signal")
    clip_signal: float | None = _declared("clip_signal")
    ignore_first_k: int = _declared("ignore_first_k")
    focus: float = _declared("focus")
    null_contrast: bool = _declared("null_contrast")
    null_follow_up: str = _declared("null_follow_up")
    contrast_strength: float = _declared("contrast_strength")
    contrast_margin: float = _declared("contrast_margin")
    contrast_plausibility: float = _declared("contrast_plausibility")
    learn_from: Literal["all", "complaints"] = _declared("learn_from")
    content_weight: float = _declared("content_weight")
    rehearsal: float = _declared("rehearsal")
    guard: Literal["off", "warn", "stop"] = _declared("guard")
    hindsight_template: Template = _declared("hindsight_template")

    def __new__(cls, *arguments: Any, **named: Any) -> Self:
        """Raises TypeError for a name that is no field, with the nearest: the jobs' settings have shorter names."""
        fields = [field.name for field in dataclasses.fields(cls)]
        for name in named.keys() - set(fields):
            ours = _TRL_NAMES.get(name)
            hint = f" Did you mean {ours}?" if ours else nearest(name, fields)
            raise TypeError(f"{cls.__name__} has no argument {name}.{hint}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if self.bf16 is None:
            self.bf16 = torch.cuda.is_available() and not self.fp16
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # it would only warn that there is nothing to pin memory for
        super().__post_init__()
        for name in METHOD:
            self._check(name)
        for name, other, values in _EFFECT:
            if getattr(self, name) != self._default(name) and getattr(self, other) not in values:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} has no effect with {other}={getattr(self, other)!r}: it is for "
                    f"{other}={' or '.join(map(repr, values))}."
                )
        if self.epsilon_high is not None and self.epsilon_high != self.epsilon:
            raise ValueError(f"epsilon_high={self.epsilon_high} has no effect here: the range is 1 ± epsilon.")
        if self.beta:
            raise ValueError(
                f"beta={self.beta} has no effect here: leave it at 0. rehearsal holds the model to its start."
            )

    @classmethod
    def recommended(cls, output_dir: str | None = None, **arguments: Any) -> Self:
        """Return the configuration that did best on real models (RECIPE=recommended); `arguments` come first.

        It is made for an adapter: give the trainer `peft_config=LoraConfig(r=32, lora_alpha=64,
        target_modules="all-linear")`.
        """
        names = {setting: name for name, setting in _OTHER_NAMES.items()}
        recipe = {names.get(name, name): value for name, value in RECIPES["recommended"].items()}
        del recipe["adapter"]  # an argument of the trainer: peft_config
        values = recipe | arguments
        for name, other, needed in _EFFECT:  # of the recipe's; one that is given has to have an effect
            if name in recipe and name not in arguments and values.get(other, cls._default(other)) not in needed:
                values.pop(name, None)
        return cls(output_dir=output_dir, **values)

    @classmethod
    def _default(cls, name: str) -> Any:
        return next(field.default for field in dataclasses.fields(cls) if field.name == name)

    def _check(self, name: str) -> None:
        """Raise ValueError if the value is not within the limits that the setting declares."""
        declared, value = _DECLARED[_OTHER_NAMES.get(name, name)], getattr(self, name)
        if value is None and declared.default is None:
            return
        try:
            declared.parse(str(value))
        except ValueError as error:
            raise ValueError(f"{name}={value!r} must be {error}") from None
