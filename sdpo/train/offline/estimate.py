"""How long a step of offline training takes, and how much memory: measured before the first one."""

import torch

from sdpo.train.callbacks import peak_memory_gb
from sdpo.train.offline.trainer import OfflineTrainer, collate
from sdpo.train.record import now


def time_a_step(trainer: OfflineTrainer) -> tuple[float | None, float]:
    """Return the estimated seconds per step, or None with FSDP, and the peak memory in GB.

    The time is that of a micro-batch of rows of median length, after one of the longest rows for the peak memory.
    With FSDP the model cannot run before the Trainer has wrapped it.
    """
    if trainer.is_fsdp_enabled:
        return None, peak_memory_gb()
    size, lengths = trainer.args.per_device_train_batch_size, trainer.train_dataset["length"]
    ordered = sorted(range(len(lengths)), key=lengths.__getitem__)
    median_start = max(0, len(ordered) // 2 - size // 2)
    model, was_training = trainer.model, trainer.model.training
    devices = [model.device] if model.device.type == "cuda" else []
    _prepare_as_train_does(trainer)
    with torch.random.fork_rng(devices=devices):  # an adapter's dropout draws random numbers
        for chosen in (ordered[-size:], ordered[median_start : median_start + size]):
            started = now()
            with trainer.accelerator.autocast():
                loss = trainer.compute_loss(model, collate([trainer.train_dataset[index] for index in chosen]))
            loss.backward()
            seconds = now() - started
    model.zero_grad(set_to_none=True)
    model.train(was_training)
    trainer.take_record()
    return seconds * trainer.args.gradient_accumulation_steps, peak_memory_gb()


def _prepare_as_train_does(trainer: OfflineTrainer) -> None:
    """Set what `Trainer.train` sets only when it begins; without it all activations of all layers would be kept.

    Checkpointing needs training mode. It may stay enabled: `train` enables it again.
    """
    trainer.model.train()
    if trainer.args.activation_checkpointing:
        trainer.model.activation_checkpointing_enable()
