"""The models that are compared, loaded one at a time."""

import os
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sdpo.errors import SettingError, one_line
from sdpo.evaluate.fingerprints import EvaluatedModel, checkpoint_model, fingerprint
from sdpo.models.pretrained import LOAD_ERRORS, load_tokenizer, load_weights

__all__ = ["EvaluatedModel", "ModelCache", "checkpoint_model", "fingerprint", "tokenizer_of"]


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
        self._adapter: str | None = None  # where the attached adapter was read from
        self._attached = 0

    def load(self, model: EvaluatedModel) -> PreTrainedModel:
        """Return the model on its device, in evaluation mode. Raises SettingError if it cannot be loaded."""
        source = model.base or model.source
        if self._source != source or (self._adapter and model.base is None):
            self.clear()
            self._model, self._source = self._load(source, model), source
        if model.base is not None and self._adapter != model.source:
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

        # Not the model's name: torch refuses names with a dot, and a model's has its run's, which may have one.
        before, name = f"adapter-{self._attached}", f"adapter-{self._attached + 1}"
        try:
            if self._adapter is None:
                self._model = PeftModel.from_pretrained(self._model, model.source, adapter_name=name)
            else:
                self._model.load_adapter(model.source, adapter_name=name)
                self._model.set_adapter(name)
                self._model.delete_adapter(before)
            self._adapter, self._attached = model.source, self._attached + 1
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
