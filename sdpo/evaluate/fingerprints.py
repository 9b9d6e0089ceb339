"""Fingerprints of models: which weights they are. Importing this is cheap."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sdpo.errors import SettingError, one_line

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin", "config.json", "adapter_config.json")

_WRITTEN_BY = ("transformers_version", "_from_model_config")


class Known(Protocol):
    """Hashes of files that were read before, such as `sdpo.evaluate.store.Store`."""

    def __contains__(self, key: str, /) -> bool: ...

    def __getitem__(self, key: str, /) -> Any: ...

    def add(self, values: Mapping[str, Any], /) -> None:
        """Remember these values by their keys; a key that is known keeps its value."""
        ...


class NothingKnown(dict[str, Any]):
    """Hashes that are forgotten with this object, so that each file is read anew."""

    def add(self, values: Mapping[str, Any], /) -> None:
        """Remember these values by their keys; a key that is known keeps its value."""
        self.update({key: value for key, value in values.items() if key not in self})


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to evaluate, or a judge.

    `source` is a hub name or a folder; `base` is the base model if the folder holds an adapter. `setting` is the
    setting that named the model, for error messages.
    """

    name: str
    source: str
    base: str | None = None
    setting: str = "BASELINE"


def checkpoint_model(step: int, folder: Path, base: str) -> EvaluatedModel:
    """Return the checkpoint in `folder`: a full model, or an adapter on `base`, the model its run started from."""
    adapter = (folder / "adapter_config.json").exists()
    return EvaluatedModel(f"checkpoint-{step}", str(folder), base if adapter else None, "CKPTS")


def model_at(name: str, source: str) -> EvaluatedModel:
    """Return the model of a hub name or a folder; a folder with an adapter is one on the base that it names."""
    return EvaluatedModel(name, source, base_of(source))


def base_of(source: str) -> str | None:
    """Return the base model that the adapter in a folder was trained on; None if there is no adapter."""
    path = Path(source).expanduser() / "adapter_config.json"
    try:
        return str(json.loads(path.read_text("utf-8"))["base_model_name_or_path"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingError(f"{path} is not an adapter's configuration: {one_line(error)}.") from None


def fingerprint(model: EvaluatedModel, known: Known) -> str:
    """Return a fingerprint of the model's weights: a hash of the files' contents, or the commit of a hub model.

    `known` stores the hashes of files by path, size and modification time, so that each file is read once.
    Raises SettingError if the model cannot be found.
    """
    if model.base is not None:
        base = fingerprint(EvaluatedModel(model.base, model.base), known)
        return _digest([base, folder_fingerprint(Path(model.source), known)])
    folder = Path(model.source).expanduser()
    if folder.is_dir():
        return folder_fingerprint(folder, known)
    from transformers.utils import cached_file

    try:
        config = cached_file(model.source, "config.json")
    except OSError as error:
        raise _missing(model, error) from None
    if config is None:  # only where transformers is asked not to raise for a missing file
        raise _missing(model, FileNotFoundError("it has no config.json"))
    return f"{model.source}@{Path(config).parent.name}"


def identity(model: EvaluatedModel, known: Known) -> str:
    """Return what a model's answers are stored under: the fingerprint of its weights, and how it generates.

    That is in `generation_config.json`: where an answer ends, what is never generated. With the file that these weights
    had when they were first seen it is the fingerprint alone, which is what earlier versions stored answers under.
    Raises SettingError if the model cannot be found.
    """
    weights = fingerprint(model, known)
    folders = [Path(source).expanduser() for source in (model.base, model.source) if source is not None]
    digest = _digest([_generation_settings(folder / "generation_config.json") for folder in folders])
    first = f"generation settings of {weights}"
    known.add({first: digest})  # keeps the first
    return weights if known[first] == digest else _digest([weights, digest])


def _generation_settings(path: Path) -> Any:
    """Return what a file says of generation, without what only says who wrote it; None without a readable file."""
    try:
        values = json.loads(path.read_text("utf-8"))
        return sorted((name, value) for name, value in values.items() if name not in _WRITTEN_BY)
    except (OSError, ValueError, AttributeError):
        return None


def folder_fingerprint(folder: Path, known: Known) -> str:
    """Return a fingerprint of the weights and configurations in a folder: a hash of the files' contents."""
    paths = sorted({path for pattern in _WEIGHTS for path in folder.glob(pattern)})
    parts = []
    for path in paths:
        status = path.stat()
        key = json.dumps([str(path.resolve()), status.st_size, status.st_mtime_ns])
        if key not in known:
            known.add({key: _file_hash(path)})
        parts.append([path.name, known[key]])
    return _digest(parts)


def _file_hash(path: Path) -> str:
    """Return a hash of a file's content; of an adapter's configuration, whatever the order of its modules.

    PEFT holds their names in a set, so two processes that train the same adapter write them in different orders.
    """
    if path.name == "adapter_config.json":
        try:
            config = json.loads(path.read_text("utf-8"))
            if isinstance(config.get("target_modules"), list):
                config["target_modules"] = sorted(config["target_modules"])
            return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
        except (ValueError, AttributeError, TypeError):
            pass  # what is no configuration is hashed as it is
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(parts: list) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _missing(model: EvaluatedModel, error: Exception) -> SettingError:
    return SettingError(f"{model.setting}: {model.source} cannot be loaded: {one_line(error)}")
