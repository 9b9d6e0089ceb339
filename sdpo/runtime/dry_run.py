"""What a dry run prints: the settings, the command that would run, and what it would take."""

import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdpo import settings as settings_module
from sdpo.llm.address import without_credentials
from sdpo.runtime import processes
from sdpo.runtime.loading import load
from sdpo.runtime.user_server import needs_user, starts_server
from sdpo.settings import CommonSettings, LaunchSettings
from sdpo.settings.command_line import name_of_word

if TYPE_CHECKING:
    from sdpo.runtime.job import Job


def print_dry_run(settings: CommonSettings, job: "Job", arguments: Sequence[str], found: Sequence[str] = ()) -> None:
    """Print the dry run; `found` is what the job's checks found in the data."""
    lines = [f"{job.name}: {job.summary}", "", settings_module.table(settings)]
    if found:
        lines += ["", "data:", *(f"  {line}" for line in found)]
    lines += ["", "would run:"]
    if needs_user(settings, job):
        user = settings.user_model_name_or_path
        where = f"at {settings.simulator_url}"
        if settings.user_is_claude:
            where = "at Anthropic's API"
        elif settings.user_is_rule:
            where = "(in the training process, without a server)"
        elif starts_server(settings, job):
            gpu = processes.simulator_gpu(settings, processes.visible_gpus())[1]
            where = f"at a server started for this job, on {gpu}"
        lines.append(f"  simulated user  {user} {where}")
    arguments = _without_dry_run(arguments)
    line, extra = [sys.executable, "-m", job.module_name, *arguments], dict[str, str]()
    if isinstance(settings, LaunchSettings) and settings.is_launched:
        line, extra = processes.launch_line(settings, job.module_name, arguments)
    # Settings from the environment belong to the command too.
    inherited = {
        settings_module.shown_name(name): settings_module.as_text(value)
        for name, value in settings_module.given(settings).items()
        if settings_module.source(settings, name) in (settings_module.MAKE, settings_module.ENVIRONMENT)
        and name not in ("dry_run", "world_size" if extra else "")
    }
    variables = [
        f"{name}={shlex.quote(value)}"
        for name, value in {**inherited, **extra}.items()
        if name != processes.WORKER_VARIABLE
    ]
    lines.append("  " + " ".join([*variables, shlex.join(line)]))
    if job.plan:
        lines += ["", "would take:", *(f"  {line}" for line in load(f"{job.plan}:dry_run_lines")(settings, job))]
    print(without_credentials("\n".join(lines)), flush=True)


def _without_dry_run(arguments: Sequence[str]) -> list[str]:
    """Return the arguments without the flag or the word of the dry run, and the flag's value if it has one."""
    kept: list[str] = []
    follows = False  # whether the last argument was the flag alone
    for argument in arguments:
        name = argument.partition("=")[0]
        is_value = follows and not argument.startswith("--") and name_of_word(argument) is None
        if is_value or name in ("--dry-run", "DRY_RUN"):
            follows = argument == "--dry-run"
            continue
        kept.append(argument)
        follows = False
    return kept
