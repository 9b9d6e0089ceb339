"""A teacher's weights under accelerate, FSDP and peft: their device, which of them follow the policy, their file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import is_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from trl.models.utils import prepare_fsdp

from sdpo.method.teacher import Teacher, trained_weights

# Not beside the policy's weights: vLLM loads every *.safetensors in a folder without an index.
FILE = "teacher/weights.safetensors"
_EARLIER_FILE = "teacher.safetensors"


def prepare_teacher(teacher: Teacher, accelerator: Accelerator, policy: nn.Module) -> None:
    """Give the teacher the policy as the trainer wrapped it, and wrap the teacher's own weights in the same way."""

    def wrap(model: nn.Module) -> nn.Module:
        if getattr(accelerator.state, "fsdp_plugin", None) is not None:
            return prepare_fsdp(model, accelerator)  # type: ignore[return-value]  # FSDP2 returns the model itself
        return accelerator.prepare_model(model, evaluation_mode=True)

    # bf16 halves the memory at no cost to training: nothing is added to these weights.
    dtype = torch.bfloat16 if accelerator.mixed_precision == "bf16" else None
    teacher.prepare(policy, wrap, dtype, moving_weights)


def moving_weights(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights that training changes, under the names that they have without an adapter.

    For an adapter these are the base weights plus the product BA: the average of A times the average of B would not
    be the average of BA.
    """
    if not is_peft_model(policy):
        yield from trained_weights(policy)
        return
    peft_policy: Any = policy
    for name, module in peft_policy.get_base_model().named_modules():
        if hasattr(module, "get_delta_weight") and module.active_adapters:
            delta = sum(module.get_delta_weight(adapter) for adapter in module.active_adapters)
            yield f"{name}.weight", module.get_base_layer().weight + delta


def save_teacher(teacher: Teacher, folder: Path, main: bool) -> None:
    """Write the teacher's own weights to the folder, if it has any; every process calls it, the `main` one writes."""
    weights = teacher.state_dict()
    if main and weights is not None:
        (folder / FILE).parent.mkdir(exist_ok=True)
        save_file({name: weight.clone().contiguous() for name, weight in weights.items()}, folder / FILE)


def load_teacher(teacher: Teacher, folder: Path) -> None:
    """Load the weights that `save_teacher` wrote, also in an earlier version; every process calls it."""
    if teacher.kind in ("ema", "gated"):
        path = folder / FILE
        teacher.load_state_dict(load_file(path if path.exists() else folder / _EARLIER_FILE))
