"""Checks of the files and models that settings name, before a model is loaded. Importing this module is cheap."""

from pathlib import Path

from sdpo.errors import SettingError
from sdpo.text.hindsight import HindsightTemplate, template_named


def check_model_path(name: str, value: str) -> None:
    """Raise SettingError if the value looks like a local path but is not a model folder."""
    looks_local = value.startswith(("/", "./", "../", "~")) or Path(value).exists()
    folder = Path(value).expanduser()
    if looks_local and not (folder / "config.json").exists():
        problem = "has no config.json" if folder.exists() else "does not exist"
        raise SettingError(f"{name.upper()}={value} {problem}. Give a model's folder or its hub id.")


def read_template(name: str, path: Path | None) -> HindsightTemplate:
    """Return the shipped template of this name, with the file's text if there is one.

    Raises SettingError for a bad file.
    """
    shipped = template_named(name)
    if path is None:
        return shipped
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"the template {path} cannot be read: {error}.") from None
    if text.count("{follow_up}") != 1:
        raise SettingError(f"the template {path} must contain {{follow_up}} exactly once.")
    return HindsightTemplate(text, shipped.place)
