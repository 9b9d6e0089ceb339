"""What the checkpoints of a run take on the disk, printed before its first step."""

import shutil
from pathlib import Path

from torch import nn
from transformers import TrainerCallback, TrainingArguments

from sdpo.errors import SettingError
from sdpo.method.teacher import Teacher
from sdpo.runtime.disk import CheckpointSize, checkpoint_size, kept_at_once, number_of_checkpoints, optimizer_bytes
from sdpo.train.record import BaseTrainer

GB = 1e9
_SMALLEST_QUANTIZED = 4096  # bitsandbytes keeps the state of smaller weights in float32


def size_of(policy: nn.Module, teacher: Teacher, args: TrainingArguments, sharded: bool = False) -> CheckpointSize:
    """Return the size of this policy's checkpoints; under an adapter they have the adapter alone.

    `sharded` is whether FSDP shards the policy.
    """
    weights = {weight for weight in policy.parameters()}  # tied ones once
    trained = {weight for weight in weights if weight.requires_grad}
    written = trained if hasattr(policy, "peft_config") else weights
    # transformers has bitsandbytes leave the state of embeddings in 32 bits.
    embeddings = {module.weight for module in policy.modules() if isinstance(module, nn.Embedding)}
    in_32_bits = {weight for weight in trained if weight in embeddings or weight.numel() < _SMALLEST_QUANTIZED}
    number, in_full = (sum(weight.numel() for weight in chosen) for chosen in (trained, in_32_bits))
    return checkpoint_size(
        sum(weight.numel() * weight.element_size() for weight in written),
        optimizer_bytes(number, in_full, "bnb_8bit" in args.optim),
        teacher.run(_bytes_by_name) if teacher.kind in ("ema", "gated") else 0,
        sharded,
        args.save_only_model,
    )


class CheckpointForecast(TrainerCallback):
    """Prints what the checkpoints will take before the first step, and warns if the disk has no room for them all.

    Raises SettingError if it has no room for the first.
    """

    def __init__(self, folder: Path, trainer: BaseTrainer, teacher: Teacher) -> None:
        self.folder, self.trainer, self.teacher = folder, trainer, teacher

    def on_train_begin(self, args, state, control, **_) -> None:
        """Print the sizes."""
        size = size_of(self.trainer.model, self.teacher, args, self.trainer.is_fsdp_enabled)
        count = number_of_checkpoints(state.max_steps, state.global_step, args.save_steps)
        free = shutil.disk_usage(self.folder).free
        if count and size.total > free:
            raise SettingError(
                f"a checkpoint takes {_gb(size.total)}, and {_gb(free)} of disk are free for {self.folder}. Free some "
                f"space{'' if args.save_only_model else ', set SAVE_ONLY_MODEL=1'}, or choose another OUTPUT_DIR or "
                "SCRATCH."
            )
        if self.trainer.accelerator.is_main_process:
            print(forecast(size, count, args, free, self.trainer.save_limit), flush=True)


def forecast(size: CheckpointSize, count: int, args: TrainingArguments, free: int, limit: int | None = None) -> str:
    """Return what `count` checkpoints take, of which `limit` are kept, and what to set if `free` bytes are too few."""
    kept = kept_at_once(count, limit)
    parts = [f"{name} {_gb(part)}" for name, part in size.parts.items()]
    needed = kept * size.total
    text = (
        f"checkpoints: {count} of {_gb(size.total)} ({', '.join(parts)}), one every {args.save_steps} steps, "
        f"{_gb(count * size.total)} written in all"
    )
    text += f", at most {_gb(needed)} at a time" if kept < count else ""
    if count == 1 and not args.save_only_model:
        text += "; it is the only one, so a run that is killed begins anew. A smaller SAVE_STEPS writes more"
    if args.save_only_model:
        text += "; with the weights alone an interrupted run cannot be resumed"
    if needed > free:
        text += (
            f"\nwarning: only {_gb(free)} of disk are free for them. Give SAVE_LIMIT=2, a larger SAVE_STEPS than "
            f"{args.save_steps}"
        )
        text += "" if args.save_only_model else ", or SAVE_ONLY_MODEL=1, which cannot be resumed"
        text += "."
    return text


def _bytes_by_name(model: nn.Module) -> int:
    """Return the bytes of the weights where tied ones are stored under both names."""
    named = model.named_parameters(remove_duplicate=False)
    return sum(weight.numel() * weight.element_size() for _, weight in named)


def _gb(size: float) -> str:
    return f"{size / GB:,.1f} GB" if size >= GB / 10 else f"{size / 1e6:,.1f} MB"
