"""Which devices a plan fits, and the cheapest single change of the settings with which it fits another."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from sdpo.plan.devices import SIZES
from sdpo.plan.memory import memory_of
from sdpo.plan.plan import Plan, changed
from sdpo.runtime.processes import DDP
from sdpo.settings import as_words

FSDP2 = DDP.with_name("fsdp2.yaml")
_MOST_GPUS = 8


@dataclass(frozen=True)
class Fit:
    """Whether a run fits a device of this size in GB, alone and beside the simulated user's server.

    `change` is the setting to change if it does not fit alone, None if it fits or no single change is enough. Where it
    adds GPUs, `without_more_gpus` is the first change that does not, if there is one.
    """

    size: int
    fits: bool
    fits_shared: bool
    change: str | None
    without_more_gpus: str | None = None


def fits_of(plan: Plan) -> list[Fit]:
    """Return the fit of each size."""
    rows = []
    for size, memory in SIZES.items():
        fits = plan.needed(memory) <= memory
        shared = plan.needed(memory, shared=True) <= memory
        if fits:
            rows.append(Fit(size, fits, shared, None))
            continue
        first = cheapest_change(plan, memory)
        other = cheapest_change(plan, memory, plan.settings.world_size)
        rows.append(Fit(size, fits, shared, first, None if other == first else other))
    return rows


def alternatives_of(plan: Plan) -> dict[str, dict[str, float]]:
    """Return the peak in bytes by adapter, with and without gradient checkpointing, and sharded as the settings are."""
    several = max(2, plan.settings.world_size)
    with_checkpointing = replace(plan.step, checkpointing=True, sharded=False)
    sharded = replace(with_checkpointing, sharded=True, processes=several, eight_bit=False)
    columns = {
        "checkpointing": with_checkpointing,
        "without": replace(with_checkpointing, checkpointing=False),
        f"FSDP2 over {several}": sharded,
    }
    peaks: dict[str, dict[str, float]] = {}
    for adapter in ("none", "lora", "qlora"):
        # A teacher that moves cannot be a copy of 4-bit weights, and these are not sharded (`check_sharded`).
        if adapter == "qlora" and plan.settings.teacher in ("ema", "gated"):
            continue
        peaks[adapter] = {
            name: memory_of(replace(step, adapter=adapter)).peak
            for name, step in columns.items()
            if not (adapter == "qlora" and step.sharded)
        }
    return peaks


def cheapest_change(
    plan: Plan, memory: float, most_gpus: int = _MOST_GPUS, is_shared: Callable[[Plan], bool] = lambda _: False
) -> str | None:
    """Return the first change, in order of what it costs, with which the run fits this memory; None if none does.

    `is_shared` says whether a changed plan's devices have the simulated user's server too.
    """
    for change in _changes(plan, most_gpus):
        other = changed(plan, **change)
        if other.needed(memory, is_shared(other)) <= memory:
            if "accelerate_config" in change:
                change["accelerate_config"] = "jobs/accelerate/fsdp2.yaml"
            return " ".join(as_words(change))
    return None


def _changes(plan: Plan, most_gpus: int) -> Iterator[dict[str, Any]]:
    """Yield changes of settings: first those that leave a step as it is, last those that train something else."""
    settings = plan.settings
    if not settings.gradient_checkpointing:
        yield {"gradient_checkpointing": True}
    rows = settings.bs
    while rows % 2 == 0:
        rows //= 2
        yield {"bs": rows, "ga": settings.ga * settings.bs // rows}
    batch = plan.step.answers
    while batch > 1 and hasattr(settings, "generation_batch"):
        batch //= 2
        yield {"generation_batch": batch}
    if not plan.step.eight_bit and not plan.step.sharded:
        yield {"optimizer": "adamw_8bit"}
    if settings.needs_start_model and not replace(settings, guard="off").needs_start_model:
        yield {"guard": "off"}
    if not plan.step.sharded and settings.adapter != "qlora":
        fsdp: dict[str, Any] = {"accelerate_config": FSDP2}
        if settings.optimizer == "adamw_8bit":
            fsdp = {"optimizer": "auto", **fsdp}
        gpus = settings.world_size if settings.world_size > 1 else 2
        while gpus <= max(most_gpus, settings.world_size):
            yield {**fsdp, **({} if gpus == settings.world_size else {"world_size": gpus})}
            gpus *= 2
    if settings.adapter == "none":
        yield {"adapter": "lora"}
    if settings.adapter != "qlora" and not plan.step.sharded and settings.teacher not in ("ema", "gated"):
        yield {"adapter": "qlora"}
