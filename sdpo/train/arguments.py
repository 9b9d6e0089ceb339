"""The trainer's arguments that all training jobs share, from their settings."""

import os
from typing import TYPE_CHECKING, Any

import torch

from sdpo.runtime.sharding import check_sharded
from sdpo.train.job import require_bitsandbytes
from sdpo.train.tracking import trackers

if TYPE_CHECKING:
    from sdpo.settings import TrainingSettings

OPTIMIZERS = {"adamw_8bit": "adamw_bnb_8bit", "adamw": "adamw_torch_fused"}
_SYNC_EACH_BATCH = {"gradient_accumulation_kwargs": {"sync_each_batch": True}}


def training_arguments(settings: "TrainingSettings") -> dict[str, Any]:
    """Return the trainer arguments that all training jobs share: sizes, optimizer, precision, saving, tracking."""
    on_gpu = torch.cuda.is_available()
    is_sharded = os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if is_sharded:
        check_sharded(settings)
    auto = "adamw_8bit" if on_gpu and not is_sharded else "adamw"
    chosen = auto if settings.optimizer == "auto" else settings.optimizer
    if chosen == "adamw_8bit":
        require_bitsandbytes(settings)
    return {
        "output_dir": str(settings.run_directory_path),
        "run_name": settings.run_id,
        "seed": settings.seed,
        "learning_rate": settings.lr,
        "adam_beta1": settings.adam_beta1,
        "per_device_train_batch_size": settings.bs,
        "gradient_accumulation_steps": settings.ga,
        "optim": OPTIMIZERS[chosen],
        "bf16": settings.precision == "bf16" or (settings.precision == "auto" and on_gpu),
        "use_cpu": not on_gpu,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "save_strategy": "steps",
        "save_steps": settings.save_steps,
        "save_total_limit": settings.save_limit,
        "save_only_model": settings.save_only_model,
        "logging_steps": settings.log_steps,
        "report_to": trackers(settings),
        "disable_tqdm": True,
        # Otherwise each GPU would hold the gradient of all weights until the last micro-batch of a step.
        **({"accelerator_config": _SYNC_EACH_BATCH} if is_sharded else {}),
    }
