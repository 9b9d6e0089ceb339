"""The models that are compared: fingerprints of their weights, and loading one model at a time."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from sdpo.errors import SettingError, one_line
from sdpo.evaluate.store import Store
from sdpo.models.pretrained import LOAD_ERRORS, load_tokenizer, load_weights

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin", "config.json", "adapter_config.json")


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


def fingerprint(model: EvaluatedModel, known: Store) -> str:
    """Return a fingerprint of the model's weights: a hash of the files' contents, or the commit of a hub model.

    `known` stores the hashes of files by path, size and modification time, so that each file is read once.
    Raises SettingError if the model cannot be found.
    """
    if model.base is not None:
        base = fingerprint(EvaluatedModel(model.base, model.base), known)
        return _digest([base, _folder_fingerprint(Path(model.source), known)])
    folder = Path(model.source).expanduser()
    if folder.is_dir():
        return _folder_fingerprint(folder, known)
    try:
        config = cached_file(model.source, "config.json")
    except OSError as error:
        raise _load_error(model, error) from None
    if config is None:  # only where transformers is asked not to raise for a missing file
        raise _load_error(model, FileNotFoundError("it has no config.json"))
    return f"{model.source}@{Path(config).parent.name}"


def _folder_fingerprint(folder: Path, known: Store) -> str:
    paths = sorted({path for pattern in _WEIGHTS for path in folder.glob(pattern)})
    parts = []
    for path in paths:
        status = path.stat()
        key = json.dumps([str(path.resolve()), status.st_size, status.st_mtime_ns])
        if key not in known:
            with path.open("rb") as file:
                known.add({key: hashlib.file_digest(file, "sha256").hexdigest()})
        parts.append([path.name, known[key]])
    return _digest(parts)


def _digest(parts: list) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class ModelCache:
    """Holds one model in memory at a time. A base model stays loaded while only adapters on it are requested.

    `loads` counts the full models loaded; attaching an adapter does not count.
    """

    def __init__(self, precision: str) -> None:
        on_gpu = torch.cuda.is_available()
        bf16 = precision == "bf16" or (precision == "auto" and on_gpu)
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
        self.loads = 0
        # A PreTrainedModel, or the PeftModel around it, which forwards all that generation and scoring use of one.
        self._model: Any = None
        self._source: str | None = None
        self._adapter: str | None = None

    def load(self, model: EvaluatedModel) -> PreTrainedModel:
        """Return the model on its device, in evaluation mode. Raises SettingError if it cannot be loaded."""
        source = model.base or model.source
        if self._source != source or (self._adapter and model.base is None):
            self.clear()
            self._model, self._source = self._load(source, model), source
        if model.base is not None and self._adapter != model.name:
            self._attach_adapter(model)
        return self._model.eval()

    def clear(self) -> None:
        """Free the memory of the loaded model."""
        self._model = self._source = self._adapter = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _load(self, source: str, model: EvaluatedModel) -> PreTrainedModel:
        weights = load_weights(source, model.setting, self.dtype)
        self.loads += 1
        return weights.to(self.device)  # type: ignore[arg-type]  # transformers wraps `to` without its signature

    def _attach_adapter(self, model: EvaluatedModel) -> None:
        from peft import PeftModel

        try:
            if self._adapter is None:
                self._model = PeftModel.from_pretrained(self._model, model.source, adapter_name=model.name)
            else:
                self._model.load_adapter(model.source, adapter_name=model.name)
                self._model.set_adapter(model.name)
                self._model.delete_adapter(self._adapter)
            self._adapter = model.name
        except LOAD_ERRORS as error:
            raise _load_error(model, error) from None


def tokenizer_of(model: EvaluatedModel) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer, for an adapter that of its base.

    A checkpoint has its own tokenizer, with the chat template used in training. Raises SettingError if the tokenizer
    is missing or has no chat template.
    """
    return load_tokenizer(model.base or model.source, model.setting)


def _load_error(model: EvaluatedModel, error: Exception) -> SettingError:
    return SettingError(f"{model.setting}: {model.source} cannot be loaded: {one_line(error)}")
