"""The plan of a run: what its settings mean for one device, and all that is computed from that."""

from dataclasses import dataclass, replace
from typing import Any

from sdpo.plan.devices import CONTEXT, LOST, VLLM_SHARE
from sdpo.plan.memory import Memory, memory_of
from sdpo.plan.outlay import ApiCost, Disk, api_cost_of, disk_of
from sdpo.plan.rows import Rows, rows_of
from sdpo.plan.shapes import Shape, read_shape
from sdpo.plan.step import HALF, Step
from sdpo.plan.work import Work, hours_of, work_of
from sdpo.runtime.processes import SHARED_GPU_MEMORY
from sdpo.runtime.sharding import check_sharded, is_sharded
from sdpo.settings import OfflineSettings, OnlineSettings


@dataclass(frozen=True)
class Plan:
    """What a run will take. `user` is the weights of a simulated user's server that the job starts, None without one.

    `hours` are by device, without the time that a user takes to reply; none with TINY=1, which runs on the CPU.
    """

    settings: OnlineSettings | OfflineSettings
    shape: Shape
    rows: Rows
    step: Step
    memory: Memory
    work: Work
    hours: dict[str, float]
    cost: ApiCost | None
    disk: Disk
    user: float | None

    def needed(self, size: float, shared: bool = False) -> float:
        """Return the bytes that a device of this size needs to have; `shared` with the simulated user's server."""
        needed = self.memory.peak * (1 + LOST) + CONTEXT
        if getattr(self.settings, "generation", None) == "vllm_colocate":
            needed += VLLM_SHARE * size
        if shared and self.user is not None:
            needed += self.user + SHARED_GPU_MEMORY * size + CONTEXT
        return needed


def changed(plan: Plan, **change: Any) -> Plan:
    """Return the plan with changed settings, of which its memory is right."""
    settings = replace(plan.settings, **change)
    step = step_of(settings, plan.shape, plan.rows)
    return replace(plan, settings=settings, step=step, memory=memory_of(step))


def plan_of(settings: OnlineSettings | OfflineSettings) -> Plan:
    """Return the plan of a run.

    Raises SettingError if the shape of a model cannot be found, and for settings that FSDP cannot train with.
    """
    if is_sharded(settings.accelerate_config):
        check_sharded(settings)
    shape = read_shape(settings.model, "MODEL")
    rows = rows_of(settings)
    step = step_of(settings, shape, rows)
    work = work_of(settings, shape, rows)
    return Plan(
        settings=settings,
        shape=shape,
        rows=rows,
        step=step,
        memory=memory_of(step),
        work=work,
        hours={} if settings.tiny else hours_of(settings, shape, work),
        cost=api_cost_of(settings, rows, work.steps),
        disk=disk_of(settings, step, work.steps),
        user=_user(settings, shape),
    )


def step_of(settings: OnlineSettings | OfflineSettings, shape: Shape, rows: Rows) -> Step:
    """Return what one device does in a step: on a GPU, but with TINY=1, which runs on the CPU."""
    sharded = is_sharded(settings.accelerate_config)
    on_gpu = not settings.tiny
    layout = settings.layout if isinstance(settings, OfflineSettings) else "grouped"
    packed = layout == "packed" or (layout == "auto" and on_gpu)
    generates = isinstance(settings, OnlineSettings) and settings.asks_user and "vllm" not in settings.generation
    linear = settings.contrast_margin == settings.contrast_plausibility == 0
    per_step = settings.bs * settings.ga
    batch = getattr(settings, "generation_batch", None) or per_step
    longest = rows.longest
    return Step(
        shape=shape,
        rows=settings.bs,
        prompt=int(longest.prompt),
        completion=int(longest.completion),
        follow_up=int(longest.follow_up),
        packed=packed,
        masked=packed,
        adapter=settings.adapter,
        rank=settings.lora_rank,
        targets=settings.lora_targets,
        bf16=settings.precision == "bf16" or (settings.precision == "auto" and on_gpu),
        eight_bit=settings.optimizer == "adamw_8bit" or (settings.optimizer == "auto" and on_gpu and not sharded),
        teacher=settings.teacher,
        keeps_start=settings.needs_start_model,
        objective=settings.objective,
        wide_contrast=settings.null_contrast and not linear,
        checkpointing=settings.gradient_checkpointing,
        accumulates=settings.ga > 1,
        processes=settings.world_size,
        sharded=sharded,
        answers=max(min(batch, per_step) if generates else 0, settings.eval_batch_size if settings.eval_n else 0),
    )


def _user(settings: OnlineSettings | OfflineSettings, shape: Shape) -> float | None:
    """Return the bytes of the weights of a simulated user's server that the job starts itself."""
    if not isinstance(settings, OnlineSettings) or settings.simulator_url:
        return None
    if not (settings.asks_user and settings.user_needs_server):
        return None
    name = settings.user_model_name_or_path
    user = shape if name == settings.model else read_shape(name, "USER_MODEL_NAME_OR_PATH")
    return float(HALF * user.parameters)
