"""What both signal jobs are given: checked before a model is loaded. Importing this is cheap."""

from pathlib import Path
from typing import TYPE_CHECKING

from sdpo import settings as settings_module
from sdpo.errors import SettingError
from sdpo.prompts import HINDSIGHT
from sdpo.run import RunDirectory

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


def check_model(name: str, setting: str = "MODEL") -> None:
    """Raise SettingError where a model given as a local path is not one."""
    looks_local = name.startswith(("/", "./", "../", "~")) or Path(name).exists()
    if looks_local and not (Path(name).expanduser() / "config.json").exists():
        raise SettingError(f"{setting}={name} has no config.json. Name a model's folder or its hub id.")


def read_template(path: Path | None) -> str:
    """Return the hindsight template: the shipped one, or the file's. Raises SettingError for a bad file."""
    if path is None:
        return HINDSIGHT
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"the template {path} cannot be read: {error}.") from None
    if text.count("{follow_up}") != 1:
        raise SettingError(f"the template {path} must hold {{follow_up}} exactly once.")
    return text
