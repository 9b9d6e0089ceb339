"""Tokenizing chat messages so that their text never becomes a control token.

A chat template puts the contents of messages between control tokens, and a literal `<|im_end|>` in a content would
become one. Here such strings are tokenized as ordinary characters. Everything else is tokenized exactly as by
`apply_chat_template`, with what `sdpo.text.template` adds for templates that take no system message or open a thought.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from sdpo.text.prompts import Message
from sdpo.text.template import control_strings, render_prompt


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Return the ids of a prompt up to where the assistant's answer begins, with thinking disabled."""
    control = _control_strings(tokenizer)
    literals = control.findall("\x00".join(message["content"] for message in messages))
    mark = _unused_mark(messages) if literals else ""
    # Each control string in a content becomes its number between two marks, until the template has been applied.
    defused = [
        {**message, "content": control.sub(lambda match: f"{mark}{literals.index(match[0])}{mark}", message["content"])}
        if literals
        else message
        for message in messages
    ]
    text = render_prompt(tokenizer, defused)
    if not literals:
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    ids: list[int] = []
    for index, piece in enumerate(text.split(mark)):
        if index % 2:  # between two marks
            ids += encode_text(tokenizer, literals[int(piece)])
        else:
            ids += tokenizer(piece, add_special_tokens=False)["input_ids"]
    return ids


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of plain text: without a template, and with control strings as ordinary characters."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def encode_completion(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of a finished completion: its text as plain text, then the end token."""
    return [*encode_text(tokenizer, text), tokenizer.eos_token_id]


def encode_answer(tokenizer: PreTrainedTokenizerBase, text: str, finished: bool) -> list[int]:
    """Return the ids of a generated answer, which ends with the end token only if it is finished; never empty."""
    ids = encode_completion(tokenizer, text) if finished else encode_text(tokenizer, text)
    return ids or [tokenizer.eos_token_id]


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the text of a completion without its control tokens."""
    text: Any = tokenizer.decode(list(ids), skip_special_tokens=True)  # a string for one list of ids
    return text


@lru_cache(maxsize=8)
def _control_strings(tokenizer: PreTrainedTokenizerBase) -> re.Pattern:
    return control_strings(tokenizer)


def _unused_mark(messages: Sequence[Message]) -> str:
    """Return a private-use character that occurs in no message."""
    used = set("".join(message["content"] for message in messages))
    return next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in used)
