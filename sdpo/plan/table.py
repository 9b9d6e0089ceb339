"""A plan in words: the table for a terminal, the lines of a dry run, and the values of plan.json."""

import dataclasses
from typing import Any

from sdpo import settings as settings_module
from sdpo.plan.devices import VLLM_SHARE
from sdpo.plan.fit import Fit, alternatives_of
from sdpo.plan.memory import Memory
from sdpo.plan.outlay import Disk
from sdpo.plan.plan import Plan

_GB = 1e9


def summary(plan: Plan, fits: list[Fit]) -> list[str]:
    """Return two to four lines: memory and what fits, time, and money and disk."""
    memory = plan.memory
    largest = sorted(memory.parts.items(), key=lambda part: -part[1])[:3]
    parts = ", ".join(f"{name} {_gb(value)}" for name, value in largest)
    sizes = f"; {_fits(plan, fits)}" if plan.hours else ""
    lines = [f"memory of a {_place(plan)}: about {_gb(memory.peak)} at most ({parts}){sizes}"]
    times = ", ".join(f"{_time(hours)} on {name}" for name, hours in plan.hours.items() if name in ("RTX 4090", "H100"))
    about = f", about {times}{_gpus(plan)}{_without_user(plan)}" if times else ", on the CPU"
    lines.append(f"time: {plan.work.steps:,} steps{about}")
    lines.append(_disk(plan.disk))
    if plan.cost is not None:
        lines.append(_cost(plan))
    return lines


def table(plan: Plan, fits: list[Fit]) -> str:
    """Return the plan as text for a terminal."""
    shape, step, work = plan.shape, plan.step, plan.work
    sharding = "sharded over" if step.sharded else "a copy on each of"
    lines = [
        f"{shape.name}: {shape.parameters / 1e9:.2f} billion weights, {step.trained / 1e9:.3f} billion trained; "
        f"{'bf16' if step.bf16 else 'fp32'}, {sharding} {step.processes} {'GPU' if plan.hours else 'process'}(s)",
        f"a micro-batch: {step.rows} rows of at most {step.prompt} + {step.completion} tokens"
        f"{', packed' if step.packed else ''}{', gradient checkpointing' if step.checkpointing else ''}",
        "",
        f"memory of a {_place(plan)} in GB",
        *_memory_rows(plan.memory),
        "",
        *_alternatives(plan),
    ]
    if plan.hours:
        lines += ["", "what fits, with 1 GB for the driver and libraries and 5 % lost between tensors"]
        lines += [_fit_row(plan, fit) for fit in fits]
        lines += _engine(plan)
    if plan.hours and plan.user is not None:
        lines.append(
            f"  the user's server has {_gb(plan.user)} of weights; with SIMULATOR_URL, or one GPU more than GPUS,"
        )
        lines.append("  it takes nothing of the trainer's")
    per_step = f"{work.steps:,} steps of {work.training_flops / 1e12:,.1f} TFLOP a GPU"
    lines += ["", f"time: {per_step}{_gpus(plan)}{_without_user(plan)}"]
    lines += [f"  {name:12}{_time(hours):>10}" for name, hours in plan.hours.items()]
    disk = plan.disk
    lines += ["", _disk(disk, "; ".join(f"{name} {_gb(value)}" for name, value in disk.size.parts.items()))]
    if disk.checkpoints > 3 and plan.settings.save_limit is None:
        lines.append("  SAVE_LIMIT=3 keeps the last three; a larger SAVE_STEPS writes fewer")
    if plan.cost is not None:
        lines += [_cost(plan)]
    return "\n".join([*lines, "", *(f"note: {note}" for note in plan.rows.notes)])


def values(plan: Plan, fits: list[Fit]) -> dict[str, Any]:
    """Return the plan as JSON values, sizes in bytes."""
    return {
        "settings": settings_module.redacted(plan.settings),
        "shape": dataclasses.asdict(plan.shape) | {"parameters": plan.shape.parameters, "trained": plan.step.trained},
        "rows": dataclasses.asdict(plan.rows),
        "memory": {
            "peak": plan.memory.peak,
            "phase": plan.memory.phase,
            "parts": plan.memory.parts,
            "lasting": dict(plan.memory.lasting),
            "phases": {name: dict(parts) for name, parts in plan.memory.phases.items()},
        },
        "alternatives": alternatives_of(plan),
        "user_server": plan.user,
        "fits": [dataclasses.asdict(fit) for fit in fits],
        "work": dataclasses.asdict(plan.work) | {"flops": plan.work.flops},
        "hours": plan.hours,
        "api_cost": dataclasses.asdict(plan.cost) if plan.cost else None,
        "disk": dataclasses.asdict(plan.disk) | {"each": plan.disk.size.total, "total": plan.disk.total},
    }


def _memory_rows(memory: Memory) -> list[str]:
    parts = [(name, value) for name, value in memory.parts.items() if value >= 5e6]
    rows = [f"  {name:22}{value / _GB:9.2f}" for name, value in parts]
    return [*rows, f"  {'at most, in: ' + memory.phase:22}{memory.peak / _GB:9.2f}"]


def _alternatives(plan: Plan) -> list[str]:
    peaks = alternatives_of(plan)
    columns = list(peaks["none"])
    rows = [f"the peak in GB by ADAPTER{'':2}" + "".join(f"{name:>15}" for name in columns)]
    for adapter, row in peaks.items():
        cells = [f"{row[name] / _GB:15.1f}" if name in row else f"{'–':>15}" for name in columns]
        rows.append(f"  {adapter:24}{''.join(cells)}")
    return rows


def _fit_row(plan: Plan, fit: Fit) -> str:
    if fit.fits:
        text = "fits"
        if plan.user is not None:
            text += ", also beside the user's server" if fit.fits_shared else ", but not beside the user's server"
    else:
        text = f"does not fit; with {fit.change} it does" if fit.change else "does not fit, nor with any single change"
        text += f", or without more GPUs with {fit.without_more_gpus}" if fit.without_more_gpus else ""
    return f"  {fit.size:4} GB  {text}"


def _engine(plan: Plan) -> list[str]:
    """Return a line on the memory of an engine that generates beside the trainer, if there is one."""
    generation = getattr(plan.settings, "generation", None)
    if generation == "vllm_colocate":
        return [
            f"  vLLM takes {VLLM_SHARE * 100:.0f} % of each for itself, in which its copy of the weights has to fit"
        ]
    if generation == "continuous_batching":
        return ["  continuous batching takes more than planned: its cache is in blocks of 256 tokens"]
    return []


def _fits(plan: Plan, fits: list[Fit]) -> str:
    first = next((fit for fit in fits if fit.fits), None)
    smaller = [fit for fit in fits if not fit.fits and fit.change]
    text = f"fits {first.size} GB" if first else "fits none of " + ", ".join(f"{fit.size}" for fit in fits) + " GB"
    if first and plan.user is not None:
        shared = next((fit.size for fit in fits if fit.fits_shared), None)
        text += ", also" if shared == first.size else f" alone, {f'{shared} GB' if shared else 'none'}"
        text += " beside the user's server"
    return text + (f", and {smaller[0].size} GB with {smaller[0].change}" if smaller else "")


def _cost(plan: Plan) -> str:
    cost = plan.cost
    if cost is None:
        return ""
    dollars = f"at most ${cost.dollars:,.2f}" if cost.dollars is not None else "no price known (PRICE_FILE)"
    return f"API: {cost.requests:,} requests to {cost.model}, {cost.tokens_in:,} tokens in: {dollars}"


def _disk(disk: Disk, parts: str = "") -> str:
    """Return what the run writes; `parts` are those of a checkpoint."""
    number = f"{disk.checkpoints} checkpoints"
    if disk.kept < disk.checkpoints:
        number += f", at most {disk.kept} at a time, each"
    models = "".join(f", {name} {_gb(value)}" for name, value in disk.models.items())
    return f"disk: {number} of {_gb(disk.size.total)}{f' ({parts})' if parts else ''}{models}: {_gb(disk.total)} in all"


def _place(plan: Plan) -> str:
    return "GPU" if plan.hours else "process on the CPU"


def _without_user(plan: Plan) -> str:
    return ", without the time that the simulated user takes" if plan.work.tokens else ""


def _time(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{max(1, round(hours * 60))} min"


def _gpus(plan: Plan) -> str:
    return f", on {plan.settings.world_size} of them" if plan.settings.world_size > 1 else ""


def _gb(value: float) -> str:
    return f"{value / _GB:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"
