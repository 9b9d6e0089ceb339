"""What to say when memory runs out: what was asked for, what was taken, and which of the job's settings to change."""

import re
import sys
from pathlib import Path
from typing import Any

from sdpo.runtime.processes import ACCELERATE
from sdpo.runtime.sharding import is_sharded
from sdpo.settings import CommonSettings, TrainingSettings

_GIB = 2**30
_FSDP2 = ACCELERATE / "fsdp2.yaml"
# What libraries raise a RuntimeError with when memory runs out, in place of torch's own error.
_MESSAGES = re.compile(
    r"(CU\w+_STATUS_ALLOC_FAILED|CUDA error: out of memory|DefaultCPUAllocator: can't allocate memory)", re.IGNORECASE
)
_TRIED = re.compile(r"[Tt]ried to allocate ([\d.]+ [KMGT]?i?B|\d+ bytes)")
# Settings of other jobs that decide how much memory is taken at a time, lowered first to last.
_SIZES = ("eval_batch_size", "judge_batch_size", "bs", "max_completion_tokens", "n_cases")


def out_of_memory(error: BaseException, settings: CommonSettings) -> str | None:
    """Return what to tell the user if the error means that memory ran out, in one line; None for any other error."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return None
    if not isinstance(error, torch.OutOfMemoryError) and not (
        isinstance(error, RuntimeError) and _MESSAGES.search(str(error))
    ):
        return None
    on_cpu = "DefaultCPUAllocator" in str(error) or not torch.cuda.is_available()
    tried = _TRIED.search(str(error))
    parts = [f"{tried[1]} more did not fit"] if tried else []
    if not on_cpu:
        parts += [f"the process had taken up to {torch.cuda.max_memory_allocated() / _GIB:.1f} GiB"]
        parts += [f"the GPU has {torch.cuda.get_device_properties(0).total_memory / _GIB:.1f} GiB"]
    what = f"the {'machine' if on_cpu else 'GPU'} ran out of memory"
    return f"{what}{': ' if parts else ''}{', '.join(parts)}. {advice(settings)}"


def advice(settings: CommonSettings) -> str:
    """Return which settings of the job to change to take less memory, those that change the least first."""
    if not isinstance(settings, TrainingSettings):
        names = [name for name in _SIZES if hasattr(settings, name)]
        given = ", ".join(f"{name.upper()} (now {getattr(settings, name)})" for name in names)
        return f"Lower {given}." if names else "Choose a smaller model, or free memory that other processes take."
    options = []
    if settings.bs > 1:
        half = settings.bs // 2
        # The same rows a step, so the run can be resumed.
        again = f" GA={settings.ga * 2}" if settings.bs % 2 == 0 else ""
        same = ", which leaves a step as it is" if again else ""
        options.append(f"BS={half}{again} (now BS={settings.bs} GA={settings.ga}){same}")
    if not settings.gradient_checkpointing:
        options.append("GRADIENT_CHECKPOINTING=1")
    lower = [name for name in ("max_context_tokens", "max_completion_tokens") if hasattr(settings, name)]
    options.append("a lower " + " or ".join(f"{name.upper()} (now {getattr(settings, name)})" for name in lower))
    if settings.eval_n:
        options.append(f"a lower EVAL_BATCH_SIZE (now {settings.eval_batch_size})")
    if settings.adapter == "none":
        options.append("ADAPTER=lora")
    elif settings.adapter == "lora" and not is_sharded(settings.accelerate_config):
        options.append("ADAPTER=qlora")
    if settings.adapter != "qlora":
        path = _FSDP2.relative_to(Path.cwd()) if _FSDP2.is_relative_to(Path.cwd()) else _FSDP2
        optimizer = "OPTIMIZER=auto " if settings.optimizer == "adamw_8bit" else ""
        options.append(f"{optimizer}ACCELERATE_CONFIG={path} with more GPUS")
    resumed = " The last checkpoint can be resumed with the first." if "leaves a step" in options[0] else ""
    return f"Try in this order: {'; '.join(options)}.{resumed}"
