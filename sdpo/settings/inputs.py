"""Checks of the files and models that settings name, before a model is loaded. Importing this module is cheap."""

from pathlib import Path

from sdpo.errors import SettingError
from sdpo.text.prompts import HINDSIGHT


def check_model_path(name: str, value: str) -> None:
    """Raise SettingError if the value looks like a local path but is not a model folder."""
    looks_local = value.startswith(("/", "./", "../", "~")) or Path(value).exists()
    folder = Path(value).expanduser()
    if looks_local and not (folder / "config.json").exists():
        problem = "has no config.json" if folder.exists() else "does not exist"
        raise SettingError(f"{name.upper()}={value} {problem}. Give a model's folder or its hub id.")


def read_template(path: Path | None) -> str:
    """Return the hindsight template: the file's, or the shipped one for None. Raises SettingError for a bad file."""
    if path is None:
        return HINDSIGHT
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"the template {path} cannot be read: {error}.") from None
    if text.count("{follow_up}") != 1:
        raise SettingError(f"the template {path} must contain {{follow_up}} exactly once.")
    return text
