"""The server of a job's simulated user: whether one is needed, its threads, and running it beside the job.

Importing this is cheap.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeGuard

from sdpo.llm.address import is_loopback
from sdpo.runtime import cores, processes
from sdpo.settings import CommonSettings, JobSettings, LaunchSettings, OnlineSettings, SimulatorSettings

if TYPE_CHECKING:
    from sdpo.runtime.job import Job


def needs_user(settings: CommonSettings, job: "Job") -> TypeGuard[OnlineSettings]:
    """Return whether a simulated user is asked."""
    return job.needs_simulator and isinstance(settings, OnlineSettings) and settings.asks_user


def starts_server(settings: CommonSettings, job: "Job") -> TypeGuard[OnlineSettings]:
    """Return whether the job starts the server of its simulated user."""
    return needs_user(settings, job) and settings.user_needs_server and not settings.simulator_url


def set_threads(settings: CommonSettings, job: "Job") -> int | None:
    """Choose the threads of a job on a CPU, say so, and return those of the server that it starts there, if any."""
    gpus = processes.visible_gpus()
    if gpus:
        return None
    partner = isinstance(settings, SimulatorSettings)  # serves a trainer that may well run on the same machine
    if needs_user(settings, job) and settings.user_needs_server and settings.simulator_url:
        partner = is_loopback(settings.simulator_url)
    chosen = cores.set_threads(
        settings.processes_here if isinstance(settings, LaunchSettings) else 1,
        starts_server(settings, job) and not processes.simulator_gpu(settings, gpus)[0],
        2 if partner else 1,
    )
    if chosen is None:
        return None
    threads, line = chosen
    if isinstance(settings, JobSettings):
        print(line, flush=True)
    return threads.server or None


@contextmanager
def simulated_user(settings: OnlineSettings, threads: int | None = None) -> Iterator[OnlineSettings]:
    """Run the simulated user's server for the duration of the job; yield settings with its URL.

    On a CPU the server computes with this many threads.
    """
    gpus = processes.visible_gpus()
    gpu, description = processes.simulator_gpu(settings, gpus)
    print(f"simulated user: {settings.user_model_name_or_path} on {description}", flush=True)
    # Next to the run directory: a run refuses a directory that contains other files.
    node = f".{settings.node_rank}" if settings.nnodes > 1 else ""
    directory = settings.run_directory_path
    log = directory.with_name(f"{directory.name}.simulator{node}.log")
    shared = processes.shares_gpu(settings, gpus)
    with server().serve(
        settings.user_model_name_or_path,
        gpu=gpu,
        log_path=log,
        memory_share=processes.SHARED_GPU_MEMORY if shared else None,
        threads=threads,
        temperature=settings.user_temperature,
    ) as url:
        yield settings.derived(processes.STARTED_FOR_JOB, simulator_url=url)


def server() -> Any:
    """Return the module that serves models and asks after their health; it imports more than a dry run needs."""
    return importlib.import_module("sdpo.llm.server")
