"""Checks of the files and models that settings name, before a model is loaded. Importing this module is cheap."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from sdpo.errors import SettingError, command, instead_of, nearest, one_line
from sdpo.settings import given, given_by_user, source
from sdpo.settings.common import CommonSettings
from sdpo.settings.contrast import OF_NULL_CONTRAST, ContrastSettings
from sdpo.settings.training import TrainingSettings
from sdpo.settings.weights import weights_fault
from sdpo.text.hindsight import HindsightTemplate, template_named

# The files of interactions by the jobs that write them.
INTERACTIONS_BY = {
    "logs_interactions.jsonl": "prep-logs",
    "wildfeedback_interactions.jsonl": "prep-wildfeedback",
    "wildchat_interactions_v1.jsonl": "prep-wildchat",
}


class Making(Protocol):
    """What is asked of a job: its own values of settings, and the command that writes its data."""

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The job's own values."""
        ...

    @property
    def data_command(self) -> str:
        """The command."""
        ...


def check_model_path(name: str, value: str) -> None:
    """Raise SettingError if the value is a local path but not a model's folder; the message names the nearest ones."""
    folder = Path(value).expanduser()
    if not (value.startswith((".", "/", "~")) or folder.exists()) or (folder / "config.json").exists():
        return
    if folder.exists():
        inside = sorted(str(path.parent) for path in folder.glob("*/config.json"))
        hint = f" There are models in it, such as {inside[-1]}." if inside else ""
        raise SettingError(f"{name.upper()}={value} has no config.json.{hint} Give a model's folder or its hub id.")
    like = _models_like(value) or instead_of(folder, folders=True)
    raise SettingError(f"{name.upper()}={value} does not exist.{like} Give a model's folder or its hub id.")


def check_model(settings: CommonSettings, name: str, value: str) -> None:
    """Raise SettingError if the value of the setting `name` is neither a model's folder nor a model of the hub.

    The weights in a folder have to be present and whole, by their headers and sizes. The hub is asked unless its cache
    has the model. If it does not respond, a dry run only says so, unless the value looks like a mistyped folder: its
    parent folder is here, or a model's folder with a similar name.
    """
    check_model_path(name, value)
    folder = Path(value).expanduser()
    if folder.exists():
        if fault := weights_fault(folder):
            raise SettingError(f"{name.upper()}={value} cannot be loaded: {fault}. Copy or download the model again.")
        return
    if not (problem := _hub_problem(value, settings.hf_token)):
        return
    certain, text = problem
    message = f"{name.upper()}={value} {text}"
    like, parent = _models_like(value), Path(value).parent
    if not like and parent != Path() and parent.is_dir():
        like = instead_of(Path(value), folders=True)
    if like:
        raise SettingError(f"{name.upper()}={value} is no folder here.{like} As a hub id, it {text}")
    if certain or not settings.dry_run:
        raise SettingError(message)
    print(f"note: {message} Its name could not be checked.", flush=True)


def check_quantized(settings: TrainingSettings, quantization: Any) -> None:
    """Raise SettingError for settings that cannot train weights which their model has quantized.

    `quantization` is the `quantization_config` of the model's configuration, None for weights that are not.
    """
    if not quantization:
        return
    method = quantization.get("quant_method") if isinstance(quantization, Mapping) else None
    if settings.adapter == "none":
        raise SettingError(
            f"MODEL={settings.model} has quantized weights ({method or 'of an unnamed kind'}), which cannot be "
            "trained. Set ADAPTER=lora, or give the model as it was before."
        )
    if settings.teacher in ("ema", "gated"):
        raise SettingError(
            f"TEACHER={settings.teacher} updates its own copy of the weights, which MODEL={settings.model} has "
            "quantized. Choose TEACHER=frozen, or give the model as it was before."
        )


def local_config(model: str) -> dict[str, Any]:
    """Return the config.json of a model's folder, empty for a name of the hub and a file that cannot be read."""
    try:
        config = json.loads((Path(model).expanduser() / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _models_like(value: str) -> str:
    """Return a question, after a blank, with the model's folder here whose name is most like a path; "" if none is."""
    parent = Path(value).expanduser().parent
    found = [*parent.glob("*/config.json"), *Path().glob("*/config.json"), *Path().glob("*/*/config.json")]
    return nearest(value, {str(path.parent) for path in found}, cutoff=0.75)


def _hub_problem(model: str, token: str | None) -> tuple[bool, str] | None:
    """Return whether the hub's answer about a model is certain, and what is wrong with it; None if nothing is."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        if isinstance(try_to_load_from_cache(model, "config.json"), str):
            return None
        get_hf_file_metadata(hf_hub_url(model, "config.json"), token=token)
    except HFValidationError:
        return True, "is neither a folder nor a hub id such as Qwen/Qwen3-4B. Correct it."
    except GatedRepoError:
        return True, "is gated on the hub. Ask for access on its page there, and set HF_TOKEN."
    except RepositoryNotFoundError:
        return True, "does not exist on the hub, or is private. Correct the name, or set HF_TOKEN."
    except EntryNotFoundError:
        return True, "has no config.json on the hub. Give a model in the format of transformers."
    except OfflineModeIsEnabled:
        return False, "is not in the hub's cache, and HF_HUB_OFFLINE is set. Unset that, or give a folder."
    except Exception as error:  # the hub's client has raised the errors of three HTTP libraries so far
        return False, (
            f"is not in the hub's cache, and the hub does not respond ({one_line(error, 100)}). If it is meant "
            "as a folder, correct the path; else try again."
        )
    return None


def made_with(settings: CommonSettings, name: str, job: "Making") -> str:
    """Return the command that writes the file which the setting `name` names; "" for a file of the user's own.

    A name that a preparation job gives says which job it was; else a path that the job itself chose is of its data.
    """
    path = getattr(settings, name)
    if path is not None and path.name in INTERACTIONS_BY:
        return command(INTERACTIONS_BY[path.name])
    origin = source(settings, name)
    if origin == "DATA_PATH":
        origin = source(settings, "data_path")
    chosen_here = path is None or not given_by_user(origin) or str(path) == str(job.defaults.get(name))
    return job.data_command if chosen_here else ""


def read_template(name: str, path: Path | None) -> HindsightTemplate:
    """Return the shipped template of this name, with the file's text if there is one.

    Raises SettingError for a bad file.
    """
    shipped = template_named(name)
    if path is None:
        return shipped
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"the template {path} cannot be read: {error}.") from None
    if text.count("{follow_up}") != 1:
        raise SettingError(f"the template {path} must contain {{follow_up}} exactly once.")
    return HindsightTemplate(text, shipped.place)


def check_contrast(settings: ContrastSettings) -> None:
    """Raise SettingError if a setting of the contrast is given that has no effect because there is no contrast."""
    if settings.null_contrast:
        return
    for name in OF_NULL_CONTRAST:
        if name in given(settings):
            raise SettingError(f"{name.upper()} is for NULL_CONTRAST=1. Set that, or leave it out.")
