"""The run directory of the two signal jobs. Importing this module is cheap."""

from typing import TYPE_CHECKING

from sdpo import settings as settings_module
from sdpo.runtime.commands import given_to_repeat
from sdpo.runtime.run_directory import RunDirectory

if TYPE_CHECKING:
    from sdpo.settings import SignalSettings


def check_run(settings: "SignalSettings") -> None:
    """Raise RunError if the run directory cannot be used. Runs before a model is loaded and writes nothing."""
    RunDirectory(settings.run_directory_path).check(settings_module.redacted(settings))


def open_run(settings: "SignalSettings") -> RunDirectory:
    """Create and lock the run directory, print its path and return it."""
    run = RunDirectory(settings.run_directory_path)
    run.open(settings_module.redacted(settings), facts={"given": given_to_repeat(settings)})
    print(f"run directory: {run.path}", flush=True)
    return run
