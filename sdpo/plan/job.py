"""`make plan`: prints the plan of a training job and writes plan.json. A dry run of that job prints the summary."""

import json
from typing import TYPE_CHECKING

from sdpo.errors import SdpoError, command
from sdpo.plan.devices import GB, gpus_here
from sdpo.plan.fit import cheapest_change, fits_of
from sdpo.plan.plan import Plan, plan_of
from sdpo.plan.table import summary, table, values
from sdpo.runtime.files import replace_file
from sdpo.runtime.processes import shares_gpu, too_few_gpus, visible_gpus
from sdpo.settings import CommonSettings, OfflineSettings, OnlineSettings

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job

FOLDER, FILE = "plans", "plan.json"


def run(settings: CommonSettings, job: "Job") -> int:
    """Print the plan, write it to SCRATCH/plans/RUN_ID/plan.json, and return 0. A dry run writes nothing.

    Raises SettingError if the shape of a model cannot be found.
    """
    training = _training(settings)
    plan = plan_of(training)
    fits = fits_of(plan)
    print(f"{job.name}: {job.summary}\n", flush=True)
    if no_gpu_here(training):
        print(f"No GPU is visible here: this is the plan for a machine with {_gpus(training)}.\n", flush=True)
    print(table(plan, fits), flush=True)
    if not settings.dry_run:
        path = training.scratch / FOLDER / training.run_name / FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"job": job.name, **values(plan, fits)}, indent=1) + "\n"
        replace_file(path, content.encode())
        print(f"plan: {path}", flush=True)
    return 0


def dry_run_lines(settings: CommonSettings, job: "Job") -> list[str]:
    """Return the lines of a dry run: the plan's summary, or in one line why there is none."""
    try:
        training = _training(settings)
        plan = plan_of(training)
        lines = summary(plan, fits_of(plan))
    except SdpoError as error:
        return [f"no plan: {error}"]
    if not no_gpu_here(training):
        return lines
    count = training.processes_here
    processes = "one process" if count == 1 else f"{count} processes"
    outcome = "be refused" if too_few_gpus(training, 0) else f"run {processes} on the CPU, many times slower"
    here = f"no GPU is visible here: this command would {outcome}"
    return [here, f"on a machine with {_gpus(training)}:", *lines]


def no_gpu_here(settings: OnlineSettings | OfflineSettings) -> bool:
    """Return whether a run that is for a GPU would find none on this machine."""
    return not settings.tiny and not visible_gpus()


def _gpus(settings: OnlineSettings | OfflineSettings) -> str:
    return "one GPU" if settings.world_size == 1 else f"{settings.world_size} GPUs"


def warning(settings: CommonSettings, job: "Job") -> str | None:
    """Return a line that says that the run is too large for a GPU of this machine, and what fits; None if it fits."""
    gpus = gpus_here()
    if not gpus or settings.tiny:
        return None
    try:
        plan = plan_of(_training(settings))
    except SdpoError:  # a model whose shape cannot be planned may fit
        return None
    size, shared = min(gpus), _shares_gpu(plan)
    needed = plan.needed(size, shared)
    if needed <= size:
        return None
    change = cheapest_change(plan, size, len(gpus), _shares_gpu)
    advice = f"{change} fits" if change else "no single change of the settings fits"
    if shared and plan.needed(size) <= size:
        advice += f", {'and so does' if change else 'but'} the run with a server elsewhere (SIMULATOR_URL)"
    beside = " beside the simulated user's server" if shared else ""
    sizes = f"{needed / GB:.0f} GB of each GPU{beside}, and one here has {size / GB:.0f}"
    return f"warning: by its plan the run needs {sizes}: {advice}. {command('plan')} JOB={job.name} shows the parts."


def _shares_gpu(plan: Plan) -> bool:
    """Return whether the simulated user's server, which the job starts here, gets a GPU that the trainer uses."""
    settings = plan.settings
    return isinstance(settings, OnlineSettings) and plan.user is not None and shares_gpu(settings, visible_gpus())


def _training(settings: CommonSettings) -> OnlineSettings | OfflineSettings:
    if not isinstance(settings, OnlineSettings | OfflineSettings):
        raise TypeError(f"{type(settings).__name__} are not the settings of a training job")
    return settings
