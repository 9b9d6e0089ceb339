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
from sdpo.pretrained import load_tokenizer, load_weights

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "adapter_model.bin", "config.json", "adapter_config.json")


@dataclass(frozen=True)
class Contender:
    """A model to be compared: a hub name or a folder; `base` is what a folder with an adapter goes on."""

    name: str
    source: str
    base: str | None = None
    setting: str = "BASELINE"


def checkpoint_contender(step: int, folder: Path, base: str) -> Contender:
    """Return a checkpoint, which holds a whole model or an adapter for the model its run started from."""
    adapter = (folder / "adapter_config.json").exists()
    return Contender(f"checkpoint-{step}", str(folder), base if adapter else None, "CKPTS")


def fingerprint(contender: Contender, known: Store) -> str:
    """Return what tells the model's weights from others': of files their content, of a hub model its commit.

    `known` keeps what files were read already, for as long as their size and time stay the same.
    """
    if contender.base is not None:
        base = fingerprint(Contender(contender.base, contender.base), known)
        return _digest([base, _of_folder(Path(contender.source), known)])
    folder = Path(contender.source).expanduser()
    if folder.is_dir():
        return _of_folder(folder, known)
    try:
        config = Path(cached_file(contender.source, "config.json"))
    except OSError as error:
        raise _unusable(contender, error) from None
    return f"{contender.source}@{config.parent.name}"


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


class Shelf:
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

    def take(self, contender: Contender) -> PreTrainedModel:
        """Return the model, ready to be asked. Raises SettingError where it cannot be loaded."""
        source = contender.base or contender.source
        if self._source != source or (self._adapter and contender.base is None):
            self.clear()
            self._model, self._source = self._load(source, contender), source
        if contender.base is not None and self._adapter != contender.name:
            self._put_on(contender)
        return self._model.eval()

    def clear(self) -> None:
        """Free what is loaded."""
        self._model = self._source = self._adapter = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _load(self, source: str, contender: Contender) -> PreTrainedModel:
        model = load_weights(source, contender.setting, self.dtype)
        self.loads += 1
        return model.to(self.device)

    def _put_on(self, contender: Contender) -> None:
        from peft import PeftModel

        try:
            if self._adapter is None:
                self._model = PeftModel.from_pretrained(self._model, contender.source, adapter_name=contender.name)
            else:
                self._model.load_adapter(contender.source, adapter_name=contender.name)
                self._model.set_adapter(contender.name)
                self._model.delete_adapter(self._adapter)
            self._adapter = contender.name
        except (OSError, ValueError, RuntimeError) as error:
            raise _unusable(contender, error) from None


def tokenizer_of(contender: Contender) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer, of an adapter its base's. Raises SettingError where there is none, or no template.

    A checkpoint keeps the tokenizer that it was trained with, chat template and all.
    """
    tokenizer = load_tokenizer(contender.base or contender.source, contender.setting)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id
    return tokenizer


def _unusable(contender: Contender, error: Exception) -> SettingError:
    return SettingError(f"{contender.setting}: {contender.source} cannot be loaded: {one_line(error)}")
