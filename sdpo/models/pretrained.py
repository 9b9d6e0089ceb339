"""Loading published models and tokenizers, and checking what every job needs of them."""

import warnings
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar, set_tqdm_hook

from sdpo import progress
from sdpo.errors import SettingError, one_line
from sdpo.models.inspection import check_loaded, prepare_tokenizer
from sdpo.progress.library import as_task

# What the libraries raise for files that are missing, damaged or of another kind, and for packages that they need.
LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError)


def silence_libraries() -> None:
    """Hide library output that a user can do nothing about, such as future warnings; their bars are ours."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft|accelerate)\b")
    disable_progress_bar()
    set_tqdm_hook(as_task)


def load_tokenizer(source: str, setting: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of `source`, a hub name or a folder that the setting named `setting` gave.

    It has a chat template, the end token of that template, and a padding token (`sdpo.models.inspection`). Raises
    SettingError if it cannot be loaded or used.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except LOAD_ERRORS as error:
        raise SettingError(f"{setting}={source} cannot be loaded: {one_line(error)}") from None
    prepare_tokenizer(tokenizer, source, setting)
    return tokenizer


def load_weights(source: str, setting: str, dtype: torch.dtype, **arguments: Any) -> PreTrainedModel:
    """Return the model of a hub name or a folder. Raises SettingError if it cannot be found or read, or lacks weights.

    The model is complete: weights that its files do not hold would be random.
    """
    try:
        with progress.task(f"loading {source}"):
            loaded: Any = AutoModelForCausalLM.from_pretrained(  # a pair, because of output_loading_info
                source, dtype=dtype, output_loading_info=True, **arguments
            )
    except LOAD_ERRORS as error:
        raise SettingError(f"{setting}={source} cannot be loaded: {one_line(error)}") from None
    model, report = loaded
    check_loaded(model, report["missing_keys"], source, setting)
    model.get_output_embeddings().register_forward_pre_hook(_contiguous_input)
    return model


def _contiguous_input(_head: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Make the LM head's input contiguous.

    Generation passes the last position of each row, a view with gaps. If the weight needs no gradient, as under an
    adapter, torch then multiplies row by row on a CPU, with a copy of the weight for each: with a vocabulary of 150,000
    and 8 rows this takes ten seconds a batch.
    """
    return tuple(tensor.contiguous() for tensor in inputs)
