"""Devices and processes: the visible GPUs, and running and ending a job's processes under `accelerate launch`."""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from sdpo import progress
from sdpo import settings as settings_module
from sdpo.errors import SettingError
from sdpo.settings import CommonSettings, EvalSettings, LaunchSettings, OnlineSettings

ACCELERATE = Path(__file__).parents[2] / "jobs" / "accelerate"
DDP = ACCELERATE / "ddp.yaml"
DDP_CPU = ACCELERATE / "ddp_cpu.yaml"

# Set in a launched process: a marker, and the file to which it writes its exit code and error. The launcher
# in between replaces every exit code by 1.
WORKER_VARIABLE = "SDPO_WORKER"
EXIT_FILE_VARIABLE = "SDPO_EXIT_FILE"

# Tells the job's processes that the simulated user's server was started for the job; and the source of its URL.
OWN_SIMULATOR_VARIABLE = "SDPO_OWN_SIMULATOR"
STARTED_FOR_JOB = "started for this job"

# Long, because a step and a checkpoint may take minutes. Whoever stops the job has a time limit of its own.
_SHUTDOWN_SECONDS = 600
# The share of a GPU's memory that the user's server reserves for its cache if it shares the GPU with the trainer.
SHARED_GPU_MEMORY = 0.1


# Devices


def installed_gpus() -> list[str]:
    """Return the indices of all GPUs of this machine, regardless of CUDA_VISIBLE_DEVICES."""
    if shutil.which("nvidia-smi"):
        with suppress(OSError, subprocess.TimeoutExpired):
            answer = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
            count = sum(line.startswith("GPU ") for line in answer.stdout.splitlines()) if not answer.returncode else 0
            return [str(index) for index in range(count)]
    return []


def visible_gpus() -> list[str]:
    """Return the visible GPUs of this machine, by the names in CUDA_VISIBLE_DEVICES if it is set."""
    listed = installed_gpus()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not listed:
        return listed
    names = [name.strip() for name in visible.split(",")]
    # CUDA ignores everything from the first name that is not a device.
    valid = [name in listed or (not name.isdigit() and name not in ("", "-1")) for name in names]
    return names[: valid.index(False)] if False in valid else names


def simulator_gpu(settings: OnlineSettings, gpus: Sequence[str]) -> tuple[str, str]:
    """Return the GPU for the simulated user's server, "" for the CPU, and a description of the choice for people."""
    if settings.simulator_gpu is not None:
        return settings.simulator_gpu, f"GPU {settings.simulator_gpu} (SIMULATOR_GPU)"
    if not gpus:
        return "", "the CPU"
    if settings.processes_here < len(gpus):
        gpu = gpus[settings.processes_here]
        return gpu, f"GPU {gpu}, which the trainer does not use"
    return gpus[-1], f"GPU {gpus[-1]}, shared with the trainer: its cache gets {SHARED_GPU_MEMORY:.0%} of the memory"


def shares_gpu(settings: OnlineSettings, gpus: Sequence[str]) -> bool:
    """Return whether the simulated user's server, started on this machine, gets a GPU that the trainer uses."""
    return simulator_gpu(settings, gpus)[0] in gpus[: settings.processes_here]


def simulator_started_for_job(settings: OnlineSettings) -> bool:
    """Return whether the simulated user's server was started for the job and ends with it."""
    return settings_module.source(settings, "simulator_url") == STARTED_FOR_JOB or OWN_SIMULATOR_VARIABLE in os.environ


# Processes


def drop_world_size(environment: MutableMapping[str, str] | None = None) -> None:
    """Remove WORLD_SIZE from the environment unless a launcher set it.

    With WORLD_SIZE but no LOCAL_RANK, accelerate would wait for processes that were never started.
    """
    environment = os.environ if environment is None else environment
    if "LOCAL_RANK" not in environment:
        environment.pop("WORLD_SIZE", None)


def run_launched(settings: LaunchSettings, module: str, arguments: Sequence[str]) -> int:
    """Run the job's processes under accelerate and return the exit code of the first one that failed, or 0."""
    command, extra = launch_line(settings, module, arguments)
    with tempfile.TemporaryDirectory(prefix="sdpo-") as folder:
        reason = Path(folder) / "reason"
        environment = {**os.environ, **extra, EXIT_FILE_VARIABLE: str(reason)}
        for name in ("WORLD_SIZE", "GPUS"):
            environment.pop(name, None)
        # In its own session, so that Ctrl-C reaches it only once, from here.
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            with progress.shown(f"starting {settings.processes_here} processes"):
                while process.poll() is None and not _start_file(reason).exists():
                    time.sleep(0.1)
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
    """Return the launch command, with the arguments of `accelerate launch`, and its additional environment variables.

    Raises SettingError for several nodes without MASTER_ADDR.
    """
    extra = {WORKER_VARIABLE: "1", "RUN_ID": settings.run_name, "OUTPUT_DIR": str(settings.run_directory_path)}
    if isinstance(settings, EvalSettings) and settings.run_dir:
        extra["RUN_DIR"] = str(settings.run_dir)
    if isinstance(settings, OnlineSettings) and settings.simulator_url:
        extra["SIMULATOR_URL"] = settings.simulator_url
        if simulator_started_for_job(settings):
            extra[OWN_SIMULATOR_VARIABLE] = "1"
    on_gpu = visible_gpus() and not settings.tiny
    config = settings.accelerate_config or (DDP if on_gpu else DDP_CPU)
    if config == DDP_CPU or (settings.accelerate_config and not on_gpu):
        # The launcher does not pass this on from its config file. Without it the processes do not form a group.
        extra["ACCELERATE_USE_CPU"] = "true"
    options = ["--config_file", str(config), "--num_processes", str(settings.world_size)]
    if settings.nnodes > 1:
        if settings.master_addr is None:
            raise _missing(["MASTER_ADDR"])
        options += ["--num_machines", str(settings.nnodes), "--machine_rank", str(settings.node_rank)]
        options += ["--main_process_ip", settings.master_addr, "--main_process_port", str(settings.master_port)]
    elif not settings.accelerate_config:
        # Port 0 lets accelerate choose a free one, so that two jobs can run at the same time.
        options += ["--main_process_port", "0"]
    command = [sys.executable, "-m", "sdpo.runtime.launcher", *options, "-m", module, *arguments]
    return command, extra


def _end(process: subprocess.Popen, number: signal.Signals) -> None:
    """Signal a launcher's processes to end, and kill them if they do not.

    SIGTERM is sent to the processes and not to the launcher, which would kill them 30 seconds later, while they save.
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
    """End the job on SIGTERM and SIGHUP by SystemExit, so that processes that it started are stopped."""

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
    """Destroy the job's process group, if there is one.

    If threads of gloo still wait for other processes when the interpreter ends, they sometimes abort the process, and
    the other nodes then wait for it for minutes.
    """
    if "torch.distributed" in sys.modules:
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def end_rank(code: int) -> None:
    """End a process that `run_launched` started with this code, after its exit handlers; return in any other.

    What is left of gloo's threads otherwise aborts the process now and then while the interpreter is torn down
    ("terminate called without an active exception"): a run that had finished then counts as failed.
    """
    if WORKER_VARIABLE not in os.environ:
        return
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _start_file(exit_file: Path) -> Path:
    """Return the file that exists once a launched process works: from then on it shows what is under way."""
    return exit_file.with_name("started")


def record_start() -> None:
    """Note for the process that launched this one, if there is one, that the work has begun."""
    if path := os.environ.get(EXIT_FILE_VARIABLE):
        with suppress(OSError):
            _start_file(Path(path)).touch()


def record_failure(code: int, message: str) -> bool:
    """Write exit code and message for the process that launched this one, and return whether there is such a process.

    Only the first failure is kept: that process prints it, once for all.
    """
    path = os.environ.get(EXIT_FILE_VARIABLE)
    if not path:
        return False
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump([code, message], file)
    except FileExistsError:
        pass
    except OSError:
        return False
    return True


def check(settings: CommonSettings) -> None:
    """Raise SettingError for more processes than GPUs, or for settings with which several nodes would not connect."""
    if not isinstance(settings, LaunchSettings):
        return
    if settings.nnodes > 1:
        check_nodes(settings)
    if settings.accelerate_config or settings.tiny:
        return
    gpus = visible_gpus()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").strip()
    if not gpus and visible not in ("", "-1") and (installed := installed_gpus()):
        raise SettingError(
            f"CUDA_VISIBLE_DEVICES={visible} names no GPU of this machine, which has {', '.join(installed)}. "
            "Name some of these, or leave it empty to use the CPU."
        )
    if problem := too_few_gpus(settings, len(gpus)):
        if not settings.dry_run:
            raise SettingError(problem)
        print(f"note: {problem}", flush=True)  # the settings may be for another machine


def too_few_gpus(settings: LaunchSettings, gpus: int) -> str:
    """Return in a sentence why the machine's GPUs are too few, "" if they are not."""
    given = f"GPUS={settings.world_size} (from {settings_module.origin(settings, 'world_size')})"
    if not gpus and settings.processes_here > 1 and not _cpu_chosen(settings):
        return (
            f"{given}, but this machine has no GPU. Set GPUS=1 to run one process on the CPU, or TINY=1 to try the job "
            "with the tiny model."
        )
    if gpus and settings.processes_here > gpus:
        return f"{given} is more than the {gpus} GPU(s) visible here. Set GPUS={gpus * settings.nnodes} or less."
    return ""


def _cpu_chosen(settings: LaunchSettings) -> bool:
    """Return whether the user asked for several processes on the CPU: by hiding all GPUs and giving their number."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "none given").strip() in ("", "-1")
    return hidden and settings_module.given_by_user(settings_module.source(settings, "world_size"))


def check_nodes(settings: LaunchSettings) -> None:
    """Raise SettingError for settings with which several nodes would not connect or not be one run."""
    if settings.world_size % settings.nnodes:
        raise SettingError(
            f"GPUS={settings.world_size} counts the processes of all {settings.nnodes} nodes (NNODES) and must be a "
            "multiple of it."
        )
    if settings.node_rank >= settings.nnodes:
        raise SettingError(f"NODE_RANK={settings.node_rank} must be less than NNODES={settings.nnodes}.")
    missing = ["MASTER_ADDR"] if settings.master_addr is None else []
    missing += ["RUN_ID"] if settings_module.source(settings, "run_id") == "date" else []
    if missing:
        raise _missing(missing)


def _missing(names: Sequence[str]) -> SettingError:
    return SettingError(f"{' and '.join(names)} must be given with NNODES: all nodes need the same.")
