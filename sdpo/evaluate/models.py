"""The models that are compared: what they are told apart by, and one at a time in memory."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from sdpo.errors import SettingError, one_line
from sdpo.evaluate.store import Store
from sdpo.models.pretrained import load_tokenizer, load_weights

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin", "config.json", "adapter_config.json")


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to be compared: a hub name or a folder; `base` is what a folder with an adapter goes on."""

    name: str
    source: str
    base: str | None = None
    setting: str = "BASELINE"


def checkpoint_model(step: int, folder: Path, base: str) -> EvaluatedModel:
    """Return a checkpoint, which holds a whole model or an adapter for the model its run started from."""
    adapter = (folder / "adapter_config.json").exists()
    return EvaluatedModel(f"checkpoint-{step}", str(folder), base if adapter else None, "CKPTS")


def fingerprint(model: EvaluatedModel, known: Store) -> str:
    """Return what tells the model's weights from others': of files their content, of a hub model its commit.

    `known` keeps what files were read already, for as long as their size and time stay the same.
    """
    if model.base is not None:
        base = fingerprint(EvaluatedModel(model.base, model.base), known)
        return _digest([base, _of_folder(Path(model.source), known)])
    folder = Path(model.source).expanduser()
    if folder.is_dir():
        return _of_folder(folder, known)
    try:
        config = Path(cached_file(model.source, "config.json"))
    except OSError as error:
        raise _unusable(model, error) from None
    return f"{model.source}@{config.parent.name}"


def _of_folder(folder: Path, known: Store) -> str:
    paths = sorted({path for pattern in _WEIGHTS for path in folder.glob(pattern)})
    parts = []
    for path in paths:
        facts = path.stat()
        key = json.dumps([str(path.resolve()), facts.st_size, facts.st_mtime_ns])
        if key not in known:
            with path.open("rb") as file:
                known.add({key: hashlib.file_digest(file, "sha256").hexdigest()})
        parts.append([path.name, known[key]])
    return _digest(parts)


def _digest(parts: list) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class ModelCache:
    """Loads one model at a time. A base stays loaded for as long as adapters for it follow.

    `loads` counts the whole models that were loaded.
    """

    def __init__(self, precision: str) -> None:
        on_gpu = torch.cuda.is_available()
        bf16 = precision == "bf16" or (precision == "auto" and on_gpu)
        self.dtype = torch.bfloat16 if bf16 else torch.float32
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
        self.loads = 0
        self._model, self._source, self._adapter = None, None, None

    def load(self, model: EvaluatedModel) -> PreTrainedModel:
        """Return the model, ready to be asked. Raises SettingError where it cannot be loaded."""
        source = model.base or model.source
        if self._source != source or (self._adapter and model.base is None):
            self.clear()
            self._model, self._source = self._load(source, model), source
        if model.base is not None and self._adapter != model.name:
            self._attach_adapter(model)
        return self._model.eval()

    def clear(self) -> None:
        """Free what is loaded."""
        self._model = self._source = self._adapter = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _load(self, source: str, model: EvaluatedModel) -> PreTrainedModel:
        weights = load_weights(source, model.setting, self.dtype)
        self.loads += 1
        return weights.to(self.device)

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
        except (OSError, ValueError, RuntimeError) as error:
            raise _unusable(model, error) from None


def tokenizer_of(model: EvaluatedModel) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer, of an adapter its base's. Raises SettingError where there is none, or no template.

    A checkpoint keeps the tokenizer that it was trained with, chat template and all.
    """
    tokenizer = load_tokenizer(model.base or model.source, model.setting)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    return tokenizer


def _unusable(model: EvaluatedModel, error: Exception) -> SettingError:
    return SettingError(f"{model.setting}: {model.source} cannot be loaded: {one_line(error)}")
