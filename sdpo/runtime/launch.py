"""The `main` of every job: settings, checks, the simulated user's server, and the training processes.

A single process runs in this one; several run under `accelerate launch`, which starts the same job module again in
each of them. Importing this module is cheap: torch is imported by the job's `run` function when it starts.
"""

import dataclasses
import errno
import os
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TextIO

from sdpo import progress
from sdpo import settings as settings_module
from sdpo.errors import AtWork, OutOfMemory, RecordError, RunError, SdpoError, SettingError, one_line
from sdpo.runtime import processes
from sdpo.runtime.dry_run import print_dry_run
from sdpo.runtime.files import disk_full, free_at, is_full
from sdpo.runtime.job import Job
from sdpo.runtime.loading import load, quiet_imports
from sdpo.runtime.memory import out_of_memory
from sdpo.runtime.run_directory import RunDirectory
from sdpo.runtime.user_server import needs_user, server, set_threads, simulated_user, starts_server
from sdpo.settings import CommonSettings, JobSettings, LaunchSettings, OnlineSettings, as_text, shown_name
from sdpo.settings.elsewhere import is_foreign
from sdpo.settings.resolve import export_dotenv, misspelt, resolve

INTERRUPTED, NOT_READ = 130, 141  # as a shell says of SIGINT and SIGPIPE
_ADVICE = dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Allow it, or choose another place.")
_ADVICE |= dict.fromkeys(
    (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG), "Give a path that exists or can be created."
)


def main(job: Job, arguments: Sequence[str] | None = None) -> int:
    """Run a job with command-line arguments and return its exit code. An error is printed as one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        with processes.exit_on_signals():
            return _main(job, arguments)
    except SdpoError as error:
        message = one_line(error, limit=1000)
        if isinstance(error, RecordError) and error.missing:
            message = message.replace(str(error.missing), _with_setting(job, arguments, error.missing), 1)
        return _failed(error.exit_code, f"error: {message}")
    except KeyboardInterrupt:
        return _failed(INTERRUPTED, "interrupted")
    except BrokenPipeError:
        closed = [stream for stream in (sys.stdout, sys.stderr) if _is_closed(stream)]
        if not closed:
            raise  # another pipe or connection
        for stream in closed:  # keep the interpreter from flushing into it again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return NOT_READ
    except OSError as error:
        setting = "OUTPUT_DIR or SCRATCH" if issubclass(job.settings, JobSettings) else "OUT_DIR"
        if error.errno in _ADVICE and error.filename:
            where = _with_setting(job, arguments, Path(error.filename))
            return _failed(1, f"error: {where}: {error.strerror}. {_ADVICE[error.errno]}")
        if not is_full(error):
            raise
        full = f"error: the disk is full{free_at(error.filename)}. Free some space, or choose another {setting}."
        return _failed(1, full)


def _is_closed(stream: TextIO) -> bool:
    """Return whether the stream is a pipe whose reader has closed it, as `head` does."""
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _main(job: Job, arguments: list[str]) -> int:
    settings = _resolved(job, arguments)
    while job.become and (other := load(job.become)(settings, job)) is not job:
        job, settings = other, _resolved(other, arguments)
    export_dotenv(secrets=not settings.dry_run)
    processes.drop_world_size()
    if settings.tiny:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the tiny world is for CPUs, and a smoke test must not occupy a GPU
    if job.fill:
        settings = load(job.fill)(settings, job)
    settings = _with_run_directory(_with_processes(settings), job)
    if job.instead:
        return int(load(job.instead)(settings, job))
    worker = processes.WORKER_VARIABLE in os.environ
    found: list[str] = []  # what the checks found in the data
    if "LOCAL_RANK" in os.environ and not worker:
        _require_shared_settings(settings, job)
    if not worker:
        _note_tiny_replaced(settings, job)
        for name, meant in misspelt(type(settings), os.environ):
            print(f"note: the environment has {name}, which is not a setting. Did you mean {meant}?", flush=True)
        processes.check(settings)
        if isinstance(settings, JobSettings):
            check_writable(settings.run_directory_path, "OUTPUT_DIR or SCRATCH")
        # Not on other nodes, which may already see files of node 0.
        if job.check and not (isinstance(settings, LaunchSettings) and settings.node_rank):
            found = load(job.check)(settings, job) or []
        if needs_user(settings, job) and settings.user_needs_server and settings.simulator_url:
            _check_user_server(settings)
    if settings.dry_run:
        print_dry_run(settings, job, arguments, found)
        return 0
    if worker:
        return _run_here(settings, job)
    if "LOCAL_RANK" in os.environ:
        with _report(settings, job, main=os.environ.get("RANK", "0") == "0"):
            return _run_here(settings, job)
    if job.plan and (warning := load(f"{job.plan}:warning")(settings, job)):
        print(warning, file=sys.stderr, flush=True)
    settings = _create_run_folder(settings, job) if isinstance(settings, JobSettings) else settings
    server_threads = set_threads(settings, job)
    first_node = not (isinstance(settings, LaunchSettings) and settings.node_rank)
    with _report(settings, job, main=first_node), ExitStack() as stack:
        if starts_server(settings, job):
            with progress.shown(job.name):
                settings = stack.enter_context(simulated_user(settings, server_threads))
        if isinstance(settings, LaunchSettings) and settings.is_launched:
            return processes.run_launched(settings, job.module_name, arguments)
        return _run_here(settings, job)


# Settings derived here


def _resolved(job: Job, arguments: Sequence[str]) -> CommonSettings:
    return resolve(job.settings, arguments, job=job.name, summary=job.summary, defaults=job.defaults, tiny=job.tiny)


def _with_setting(job: Job, arguments: Sequence[str], path: Path) -> str:
    """Return a path, with the setting that it is, or in which a folder above or below it was given, if there is one."""
    try:
        settings = _resolved(job, arguments)
    except SdpoError:
        return str(path)
    values = {name: getattr(settings, name) for name in settings_module.settings_of(type(settings))}
    places = {name: value for name, value in values.items() if isinstance(value, Path)}
    same = [name for name, value in places.items() if value == path]
    given = [name for name in settings_module.given(settings) if name in places]
    for name in [*same, *given]:
        value = places[name]
        if path.is_relative_to(value) or value.is_relative_to(path):
            return f"{shown_name(name)}={value}" + ("" if value == path else f": {path}")
    return str(path)


def _note_tiny_replaced(settings: CommonSettings, job: Job) -> None:
    """Print which values of the environment are used in place of the tiny world's: an export may be long ago."""
    source, environment = settings_module.source, settings_module.ENVIRONMENT
    names = [*job.tiny, *(["recipe"] if hasattr(settings, "recipe") else [])]
    replaced = [name for name in names if source(settings, name) == environment and not is_foreign(name)]
    if settings.tiny and replaced:
        unset = " ".join(map(shown_name, replaced))
        public = settings_module.redacted(settings)
        values = ", ".join(f"{shown_name(name)}={as_text(public[name])}" for name in replaced)
        print(f"note: the environment has {values}, which TINY=1 does not replace: unset {unset}", flush=True)


def _with_processes(settings: CommonSettings) -> CommonSettings:
    """Return settings with the number of processes from the user's accelerate file, unless WORLD_SIZE was given."""
    if not isinstance(settings, LaunchSettings) or settings.accelerate_config is None:
        return settings
    import yaml

    path = settings.accelerate_config
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingError(f"ACCELERATE_CONFIG={path} cannot be read: {one_line(error)}.") from None
    if not isinstance(content, dict):
        raise SettingError(
            f"ACCELERATE_CONFIG={path} is not an accelerate config file. Create one with `accelerate config`."
        )
    number = content.get("num_processes")
    if "world_size" in settings_module.given(settings) or not isinstance(number, int) or number < 1:
        return settings
    return settings.derived("accelerate file", world_size=number)


def _with_run_directory(settings: CommonSettings, job: Job) -> CommonSettings:
    """Return settings with the run's name and directory filled in."""
    if not isinstance(settings, JobSettings):
        return settings
    if settings.run_id is None:
        settings = settings.derived("date", run_id=datetime.now().strftime("%Y%m%d-%H%M%S"))
    return dataclasses.replace(settings, output_dir=job.run_directory(settings))


def _create_run_folder(settings: JobSettings, job: Job) -> JobSettings:
    """Create the run directory. If only the date names it, avoid those of other jobs started in the same second."""
    named = settings_module.source(settings, "run_id") != "date" or "output_dir" in settings_module.given(settings)
    run_id, folder, number = settings.run_name, settings.run_directory_path, 1
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=named)
            return dataclasses.replace(settings, run_id=run_id, output_dir=folder)
        except FileExistsError:
            if named:
                raise RunError(f"{folder} is a file. Choose another RUN_ID or OUTPUT_DIR.") from None
            number += 1
            run_id = f"{settings.run_name}-{number}"
            folder = settings.run_directory_path.with_name(run_id)
        except OSError as error:
            if is_full(error):
                raise
            raise RunError(
                f"{folder} cannot be created: {error.strerror}. Choose another OUTPUT_DIR or SCRATCH."
            ) from None


# Checks


def check_writable(folder: Path, setting: str) -> None:
    """Raise RunError if the folder cannot be created or written to; `setting` is the setting to change."""
    ancestor = next(path for path in (folder, *folder.parents) if path.exists())
    if not ancestor.is_dir():
        is_what = "is a file" if ancestor == folder else f"cannot be created: {ancestor} is a file"
        raise RunError(f"{folder} {is_what}, not a folder. Choose another {setting}.")
    if not os.access(ancestor, os.W_OK | os.X_OK):
        raise RunError(f"{folder} cannot be written: no permission in {ancestor}. Choose another {setting}.")


def _check_user_server(settings: OnlineSettings) -> None:
    """Raise SdpoError if the simulated user's server does not respond, or lacks the model."""
    from sdpo.llm.health import noted_if_dry

    wait = 0 if settings.dry_run else settings.simulator_wait
    model, key = settings.user_model_name_or_path, settings.simulator_api_key
    with noted_if_dry(settings.dry_run):
        server().check_health(settings.simulator_url, model, api_key=key, wait=wait)


def _require_shared_settings(settings: CommonSettings, job: Job) -> None:
    """Raise SettingError if processes of another launcher would each choose their own value of a shared setting."""
    if not isinstance(settings, JobSettings):
        return
    missing = ["RUN_ID"] if settings_module.source(settings, "run_id") == "date" else []
    if starts_server(settings, job):
        missing.append("SIMULATOR_URL")
    if missing:
        raise SettingError(
            f"{' and '.join(missing)} must be given when another launcher starts the processes: they all need the same."
        )


# The job's work


def _run_here(settings: CommonSettings, job: Job) -> int:
    alone = (
        isinstance(settings, LaunchSettings)
        and processes.WORKER_VARIABLE not in os.environ
        and "LOCAL_RANK" not in os.environ
    )
    if alone and len(gpus := processes.visible_gpus()) > 1:
        # transformers would spread one process over all visible GPUs, which is slow.
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[0]
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"{job.name}: loading", flush=True)  # the next line may take half a minute
    quiet_imports()
    try:
        with progress.shown(job.name, main=not job.serves and os.environ.get("RANK", "0") == "0"):
            processes.record_start()
            code = int(load(job.run)(settings, job) or 0)
    except Exception as error:
        if isinstance(settings, JobSettings) and disk_full(error, settings.run_directory_path):
            folder = settings.run_directory_path
            if os.environ.get("RANK", "0") == "0":
                RunDirectory(folder).remove_incomplete_checkpoints()  # the one that the disk had no room for
            path = getattr(error, "filename", None) or str(folder)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path) from None
        if message := out_of_memory(error, settings):
            raise OutOfMemory(message) from None
        raise
    processes.leave_process_group()
    if code:
        processes.record_failure(code, "")
    processes.end_rank(code)
    return code


@contextmanager
def _report(settings: CommonSettings, job: Job, main: bool = True) -> Iterator[None]:
    """Write the job's report at the end, also of a run that fails: the report then says what is missing.

    A report that cannot be written is a warning, never the end of a run. The folder of a run that another process is
    at work on is that one's to report on.
    """
    refused = False
    stream = sys.stdout
    try:
        yield
    except AtWork:
        refused = True
        raise
    except BaseException:
        stream = sys.stderr  # where the error follows: the order of two streams is lost in a container's log
        raise
    finally:
        if main and not refused and job.report and isinstance(settings, JobSettings):
            try:
                print(f"report: {load(job.report)(settings.run_directory_path)}", file=stream, flush=True)
            except RunError:
                pass  # the run ended before it wrote anything
            except Exception as error:
                print(f"warning: the report cannot be written: {one_line(error)}", file=sys.stderr, flush=True)


def _failed(code: int, message: str) -> int:
    if not processes.record_failure(code, message):
        print(message, file=sys.stderr, flush=True)
    return code
