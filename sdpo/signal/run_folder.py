"""What both signal jobs are given: checked before a model is loaded. Importing this is cheap."""

from typing import TYPE_CHECKING

from sdpo import settings as settings_module
from sdpo.runtime.run_directory import RunDirectory

if TYPE_CHECKING:
    from sdpo.settings import SignalSettings


def check_run(settings: "SignalSettings") -> None:
    """Raise RunError where the run's folder cannot be used."""
    RunDirectory(settings.output_dir).check(settings_module.redacted(settings))


def open_run(settings: "SignalSettings") -> RunDirectory:
    """Return the run's folder, made and locked, with its path said on screen."""
    run = RunDirectory(settings.output_dir)
    run.open(settings_module.redacted(settings))
    print(f"run directory: {run.path}", flush=True)
    return run
