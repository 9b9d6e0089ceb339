"""Models and tokenizers as they are published: loaded, with what every job needs of them checked."""

import warnings
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

from sdpo.errors import SettingError, one_line


def silence_libraries() -> None:
    """Keep from the screen what a user of ours can do nothing about: what the libraries will rename, and their bars."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft|accelerate)\b")
    disable_progress_bar()


def load_tokenizer(source: str, setting: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a hub name or a folder, which `setting` named.

    Raises SettingError where there is none, or none with a chat template.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise SettingError(f"{setting}={source} cannot be loaded: {one_line(error)}") from None
    if tokenizer.chat_template is None:
        raise SettingError(f"{setting}={source} has no chat template: choose an instruction-tuned model.")
    return tokenizer


def load_weights(source: str, setting: str, dtype: torch.dtype, **arguments: Any) -> PreTrainedModel:
    """Return the model of a hub name or a folder. Raises SettingError where it cannot be found or read."""
    try:
        return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **arguments)
    except (OSError, ValueError) as error:
        raise SettingError(f"{setting}={source} cannot be loaded: {one_line(error)}") from None
