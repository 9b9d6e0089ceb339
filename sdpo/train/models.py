"""The model that is trained: loaded, with what a trainer needs of it checked."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sdpo.errors import SettingError, one_line


def load_model(name: str) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Return (tokenizer, model) with float32 weights: small updates would be lost in bf16 ones.

    Raises SettingError where the model cannot be found or read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise SettingError(f"MODEL_NAME_OR_PATH={name} cannot be loaded: {one_line(error)}") from None
    if tokenizer.chat_template is None:
        raise SettingError(f"MODEL_NAME_OR_PATH={name} has no chat template: choose an instruction-tuned model.")
    return tokenizer, model
