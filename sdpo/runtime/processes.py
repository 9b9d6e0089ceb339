"""Devices and processes: the GPUs to be seen, and a job's processes under `accelerate launch`, to their end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from sdpo import settings as settings_module
from sdpo.errors import SettingError
from sdpo.settings import CommonSettings, LaunchSettings, OnlineSettings

_ACCELERATE = Path(__file__).parents[2] / "jobs" / "accelerate"
DDP = _ACCELERATE / "ddp.yaml"
DDP_CPU = _ACCELERATE / "ddp_cpu.yaml"

# In a process that we launched: a marker, and the file in which it leaves why it failed. The launcher
# between the two replaces every exit code by 1.
WORKER_VARIABLE = "SDPO_WORKER"
EXIT_FILE_VARIABLE = "SDPO_EXIT_FILE"

# Where the job's processes learn that the simulated user's server was started for the job, and its source here.
OWN_SIMULATOR_VARIABLE = "SDPO_OWN_SIMULATOR"
STARTED_FOR_JOB = "started for this job"

# Long, for a step and a checkpoint may take minutes: who asked for the end has a limit of its own.
_SHUTDOWN_SECONDS = 600
# How much of a GPU's memory the user's server may keep for its cache beside the trainer.
SHARED_GPU_MEMORY = 0.1


# Devices


def installed_gpus() -> list[str]:
    """Return the GPUs of this machine by number, whatever CUDA_VISIBLE_DEVICES says."""
    if shutil.which("nvidia-smi"):
        with suppress(OSError, subprocess.TimeoutExpired):
            answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
            count = sum(line.startswith("GPU ") for line in answer.stdout.splitlines()) if not answer.returncode else 0
            return [str(index) for index in range(count)]
    return []


def visible_gpus() -> list[str]:
    """Return the GPUs of this machine, as CUDA_VISIBLE_DEVICES names them and as far as it shows them."""
    listed = installed_gpus()
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    if shown is None or not listed:
        return listed
    names = [name.strip() for name in shown.split(",")]
    # CUDA ignores everything from the first name that is not a device.
    valid = [name in listed or (not name.isdigit() and name not in ("", "-1")) for name in names]
    return names[: valid.index(False)] if False in valid else names


def simulator_gpu(settings: OnlineSettings, gpus: Sequence[str]) -> tuple[str, str]:
    """Return the GPU of the simulated user's server, "" for the CPU, and a few words about the choice."""
    if settings.simulator_gpu is not None:
        return settings.simulator_gpu, f"GPU {settings.simulator_gpu}, as SIMULATOR_GPU says"
    if not gpus:
        return "", "the CPU"
    if settings.processes_here < len(gpus):
        gpu = gpus[settings.processes_here]
        return gpu, f"GPU {gpu}, which the trainer leaves free"
    return gpus[-1], f"GPU {gpus[-1]}, shared with the trainer: its cache gets {SHARED_GPU_MEMORY:.0%} of the memory"


def simulator_started_for_job(settings: OnlineSettings) -> bool:
    """Return whether the simulated user's server was started for the job and will end with it."""
    return settings_module.source(settings, "simulator_url") == STARTED_FOR_JOB or OWN_SIMULATOR_VARIABLE in os.environ


# Processes


def drop_world_size(environment: MutableMapping[str, str] | None = None) -> None:
    """Take WORLD_SIZE out of the environment unless a launcher set it.

    Without LOCAL_RANK beside it accelerate would wait for processes that nobody started.
    """
    environment = os.environ if environment is None else environment
    if "LOCAL_RANK" not in environment:
        environment.pop("WORLD_SIZE", None)


def run_launched(settings: LaunchSettings, module: str, arguments: Sequence[str]) -> int:
    """Run the job's processes under accelerate and return the exit code of the first one that failed."""
    command, extra = launch_line(settings, module, arguments)
    with tempfile.TemporaryDirectory(prefix="sdpo-") as folder:
        reason = Path(folder) / "reason"
        environment = {**os.environ, **extra, EXIT_FILE_VARIABLE: str(reason)}
        for name in ("WORLD_SIZE", "GPUS"):
            environment.pop(name, None)
        # In a session of its own, so that Ctrl-C reaches it once, from here.
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            code = process.wait()
        except KeyboardInterrupt:
            _end(process, signal.SIGINT)
            raise
        except BaseException:
            _end(process, signal.SIGTERM)
            raise
        if code and reason.exists():
            code, message = json.loads(reason.read_text("utf-8"))
            if message:
                print(message, file=sys.stderr)
    return code if code >= 0 else 128 - code


def launch_line(settings: LaunchSettings, module: str, arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the launch command (`accelerate launch`'s own arguments), and what it is told through the environment."""
    extra = {WORKER_VARIABLE: "1", "RUN_ID": settings.run_id, "OUTPUT_DIR": str(settings.output_dir)}
    if getattr(settings, "run_dir", None):
        extra["RUN_DIR"] = str(settings.run_dir)
    if getattr(settings, "simulator_url", None):
        extra["SIMULATOR_URL"] = settings.simulator_url
        if simulator_started_for_job(settings):
            extra[OWN_SIMULATOR_VARIABLE] = "1"
    on_gpu = visible_gpus() and not settings.tiny
    config = settings.accelerate_config or (DDP if on_gpu else DDP_CPU)
    if config == DDP_CPU or (settings.accelerate_config and not on_gpu):
        # The launcher does not hand this on from its file, and without it the processes stay apart.
        extra["ACCELERATE_USE_CPU"] = "true"
    options = ["--config_file", str(config), "--num_processes", str(settings.world_size)]
    if settings.nnodes > 1:
        options += ["--num_machines", str(settings.nnodes), "--machine_rank", str(settings.node_rank)]
        options += ["--main_process_ip", settings.master_addr, "--main_process_port", str(settings.master_port)]
    elif not settings.accelerate_config:
        # Port 0 lets accelerate choose a free one, so that two jobs can run side by side.
        options += ["--main_process_port", "0"]
    command = [sys.executable, "-m", "sdpo.runtime.launcher", *options, "-m", module, *arguments]
    return command, extra


def _end(process: subprocess.Popen, number: signal.Signals) -> None:
    """Ask a launcher's processes to end, and see to it that they do.

    SIGTERM goes past the launcher: told itself, it would kill them 30 seconds later, in the middle of saving.
    """
    import psutil

    with suppress(ProcessLookupError, psutil.NoSuchProcess):
        workers = psutil.Process(process.pid).children() if number == signal.SIGTERM else []
        for worker in workers:
            worker.send_signal(number)
        if not workers:
            os.killpg(process.pid, number)
    try:
        process.wait(timeout=_SHUTDOWN_SECONDS)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the job as an exit does, so that what it started is stopped."""

    def end(number: int, frame: object) -> NoReturn:
        os.write(2, f"ended by {signal.Signals(number).name}\n".encode())
        raise SystemExit(128 + number)

    numbers = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_process_group() -> None:
    """Leave the group of a job's processes, if it made one.

    Gloo's threads that still wait for the others when the interpreter ends abort the process now and then, and the
    other nodes wait for it for minutes.
    """
    if "torch.distributed" in sys.modules:
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def record_failure(code: int, message: str) -> None:
    """Leave the exit code and the reason for the process that launched this one; the first to fail says it."""
    if path := os.environ.get(EXIT_FILE_VARIABLE):
        with suppress(OSError), open(path, "x", encoding="utf-8") as file:
            json.dump([code, message], file)


def check(settings: CommonSettings) -> None:
    """Raise SettingError for more processes than there are GPUs, or machines that would not find together."""
    if not isinstance(settings, LaunchSettings):
        return
    if settings.nnodes > 1:
        check_nodes(settings)
    if settings.accelerate_config or settings.tiny:
        return
    gpus = visible_gpus()
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    if not gpus and shown not in ("", "-1") and (installed := installed_gpus()):
        raise SettingError(
            f"CUDA_VISIBLE_DEVICES={shown} names no GPU of this machine, which has {', '.join(installed)}. "
            "Name some of those, or leave it empty to use the CPU."
        )
    if gpus and settings.processes_here > len(gpus):
        raise SettingError(
            f"WORLD_SIZE={settings.world_size} (from: {settings_module.source(settings, 'world_size')}) is more than "
            f"the {len(gpus)} GPU(s) to be seen here. Give GPUS={len(gpus) * settings.nnodes} or less."
        )


def check_nodes(settings: LaunchSettings) -> None:
    """Raise SettingError where several machines would not find together, or not be one run."""
    if settings.world_size % settings.nnodes:
        raise SettingError(
            f"WORLD_SIZE={settings.world_size} counts the processes of all {settings.nnodes} nodes (NNODES) and must "
            "be a multiple of it."
        )
    if settings.node_rank >= settings.nnodes:
        raise SettingError(f"NODE_RANK={settings.node_rank} must be less than NNODES={settings.nnodes}.")
    missing = ["MASTER_ADDR"] if settings.master_addr is None else []
    missing += ["RUN_ID"] if settings_module.source(settings, "run_id") == "date" else []
    if missing:
        raise SettingError(f"{' and '.join(missing)} must be given with NNODES: all nodes need the same.")
