"""What every job has to know of a model and its tokenizer before it uses them.

`load_tokenizer` and `load_weights` call these functions, so that each job either works with what a model brings or
says in one line why not, before anything is trained, generated or scored.
"""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from sdpo.errors import SettingError, nearest
from sdpo.text.chat import encode_prompt
from sdpo.text.template import template_facts

if TYPE_CHECKING:
    from peft import LoraConfig

# The kinds of layers that an adapter is put on; the layers of 4-bit weights are linear ones.
ADAPTABLE = (nn.Linear, nn.Embedding, Conv1D)

_noted: set[str] = set()


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase, source: str, setting: str) -> None:
    """Check a tokenizer with its chat template, and set its end and padding tokens where they are missing or wrong.

    What is changed is printed, once. Raises SettingError if the tokenizer cannot be used.
    """
    named = f"{setting}={source}"
    if tokenizer.chat_template is None:
        raise SettingError(f"{named} has no chat template: choose an instruction-tuned model.")
    facts = template_facts(tokenizer)
    if facts.fault:
        raise SettingError(f"{named} has a chat template that cannot be used: {facts.fault}.")
    if not facts.takes_system:
        _note(f"{named}: its chat template takes no system message, whose text goes into the user's turn")
    if facts.closing:
        _note(f"{named}: its chat template opens a thought, which is closed before each answer: nothing is thought")
    _set_end_token(tokenizer, facts.end, named)
    size = _vocabulary_size(source)
    if tokenizer.pad_token_id is None or (size is not None and tokenizer.pad_token_id >= size):
        tokenizer.pad_token = tokenizer.eos_token
    used = [*encode_prompt(tokenizer, [{"role": "user", "content": "x"}]), tokenizer.eos_token_id]
    if size is not None and max(used) >= size:
        token = tokenizer.convert_ids_to_tokens(max(used))
        raise SettingError(
            f"{named}: its tokenizer uses {token}, number {max(used)}, for which the model has no weights (it has "
            f"{size}). Give a model whose weights and tokenizer belong together."
        )


def check_loaded(model: PreTrainedModel, missing: Iterable[str], source: str, setting: str) -> None:
    """Raise SettingError if weights that the model needs were not in its files: they are random now."""
    names = sorted(missing)
    if names:
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise SettingError(
            f"{setting}={source} lacks weights that {type(model).__name__} needs: {', '.join(names[:3])}{more}. They "
            "would be random. Give a complete model, or set tie_word_embeddings in its config.json if its head is its "
            "embedding."
        )


def check_adapter(model: PreTrainedModel, config: "LoraConfig") -> None:
    """Raise SettingError for LORA_TARGETS that name no layers of the model, or layers that cannot have an adapter."""
    modules = dict(model.named_modules())
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    is_tied = head is not None and getattr(head, "weight", None) is getattr(embedding, "weight", None)
    if not isinstance(config.target_modules, set):  # all-linear
        return
    for target in sorted(config.target_modules):
        matched = [module for name, module in modules.items() if name == target or name.endswith(f".{target}")]
        if not matched:
            layers = {name.rsplit(".", 1)[-1] for name, module in modules.items() if isinstance(module, ADAPTABLE)}
            raise SettingError(
                f"LORA_TARGETS: this model has no layer named {target or '(empty)'}.{nearest(target, layers)} "
                f"Its layers are {', '.join(sorted(layers))}."
            )
        if any(module is head for module in matched):
            raise SettingError(
                f"LORA_TARGETS cannot include {target}: scoring uses its weights directly. Leave it out."
            )
        if is_tied and any(module is embedding for module in matched):
            raise SettingError(
                f"LORA_TARGETS cannot include {target}: this model's head has the same weights, which merging would "
                "change too. Leave it out."
            )
        if other := next((module for module in matched if not isinstance(module, ADAPTABLE)), None):
            raise SettingError(
                f"LORA_TARGETS: {target} is a {type(other).__name__}, which cannot have an adapter. Name linear layers."
            )


def _set_end_token(tokenizer: PreTrainedTokenizerBase, end: str | None, named: str) -> None:
    """Make the tokenizer's end token the one that its template ends an answer with."""
    before = tokenizer.eos_token
    if end is None and tokenizer.eos_token_id is None:
        raise SettingError(
            f"{named} has no end token, and its chat template ends an answer with none. Choose another model, or set "
            "eos_token in its tokenizer_config.json."
        )
    if end is None or end == before:
        return
    tokenizer.eos_token = end
    _note(f"{named}: answers end with {end}, as in its chat template, not with {before or 'no token'}")


def quantization_of(source: str) -> Any:
    """Return how a model's files have its weights quantized; None if they do not, or have no configuration."""
    try:
        return getattr(AutoConfig.from_pretrained(source), "quantization_config", None)
    except (OSError, ValueError, KeyError):
        return None


def _vocabulary_size(source: str) -> int | None:
    """Return for how many tokens the model has weights; None if its configuration does not say."""
    try:
        return getattr(AutoConfig.from_pretrained(source).get_text_config(), "vocab_size", None)
    except (OSError, ValueError, KeyError):
        return None


def _note(text: str) -> None:
    """Print a line once, and on one process only."""
    if text not in _noted and os.environ.get("LOCAL_RANK", "0") == "0":
        _noted.add(text)
        print(text, flush=True)
