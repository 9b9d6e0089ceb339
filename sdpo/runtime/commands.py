"""The commands that messages name: a job with its settings, as it is typed. `sdpo.errors.command` begins them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdpo import errors
from sdpo import settings as settings_module
from sdpo.runtime.processes import simulator_started_for_job
from sdpo.settings import (
    CommonSettings,
    EvalSettings,
    JobSettings,
    LaunchSettings,
    OnlineSettings,
    StoreSettings,
    settings_of,
)


def command(job: str, *words: str, **values: Any) -> str:
    """Return the command of a job with these words and settings; settings that are None or False are left out."""
    given = {name: value for name, value in values.items() if value is not None and value is not False}
    return errors.command(" ".join([job, *words, *settings_module.as_words(given)]))


def on_registry(registry: Path, job: str, *words: str) -> str:
    """Return the command of a job on this registry, such as `make promote VERSION=v0003 REGISTRY=elsewhere`."""
    default = settings_of(StoreSettings)["registry"].default
    return command(job, *words, registry=None if registry == default else registry)


def given_to_repeat(settings: CommonSettings) -> dict[str, Any]:
    """Return the settings that the user gave, without those of this run's folder, server and launcher, and no secrets.

    A command with them repeats the run.
    """
    left_out = {"run_id", "output_dir", "resume", "dry_run"}
    left_out |= _of_own_server(settings)
    if isinstance(settings, LaunchSettings) and settings.nnodes == 1:
        left_out |= {"master_addr", "master_port", "node_rank"}
    return {name: value for name, value in settings_module.given(settings).items() if name not in left_out}


def resume_command(settings: JobSettings, job: str, correct: Sequence[str] = ()) -> str:
    """Return the command that resumes this run with the same settings.

    The names of settings to `correct` have "..." for a value, which the user fills in. A user and password in an
    address are left out.
    """
    # An evaluation is found by the run that it evaluates.
    names_run = not isinstance(settings, EvalSettings) or "run_id" in settings_module.given(settings)
    return command(
        job,
        *_repeated(settings, correct),
        *([f"RUN_ID={settings.run_id}"] if names_run else []),
        *_to_fill_in(settings, correct),
        **_output_dir(settings, ""),
    )


def new_run_command(settings: JobSettings, job: str, correct: Sequence[str] = (), **values: Any) -> str:
    """Return the command of a new run with the same settings, under a RUN_ID that no run beside this one has.

    The names of settings to `correct` have "..." for a value, which the user fills in; `values` replace those given.
    """
    number, name = 2, settings.run_id or settings.run_directory_path.name
    while settings.run_directory_path.with_name(f"{name}-{number}").exists():
        number += 1
    words = [*_repeated(settings, [*correct, *values]), *settings_module.as_words(values)]
    words += [f"RUN_ID={name}-{number}", *_to_fill_in(settings, correct)]
    return command(job, *words, **_output_dir(settings, f"-{number}"))


def _repeated(settings: JobSettings, correct: Sequence[str]) -> list[str]:
    given = given_to_repeat(settings)
    return settings_module.as_words({name: value for name, value in given.items() if name not in correct})


def _to_fill_in(settings: JobSettings, correct: Sequence[str]) -> list[str]:
    secret = {name for name, declared in settings_of(type(settings)).items() if declared.secret}
    left_out = secret | _of_own_server(settings)
    return [f"{settings_module.shown_name(name)}=..." for name in correct if name not in left_out]


def _of_own_server(settings: CommonSettings) -> set[str]:
    """Return the settings that name the server which the job started: it ends with it, and the next starts another."""
    own = isinstance(settings, OnlineSettings) and simulator_started_for_job(settings)
    return {"simulator_url"} if own else set()


def _output_dir(settings: JobSettings, suffix: str) -> dict[str, str]:
    given = "output_dir" in settings_module.given(settings)
    return {"output_dir": f"{settings.output_dir}{suffix}"} if given else {}
