"""From messages to token ids, with text that stays text.

A chat template puts contents between control tokens, and a literal `<|im_end|>` in a content would become
one. Here such strings are tokenized as ordinary characters; everything else is tokenized exactly as
`apply_chat_template` does.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from sdpo.text.prompts import Message


def encode_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Return the ids of a prompt up to where the assistant's answer begins, thinking off."""
    control = _control_strings(tokenizer)
    found = control.findall("\x00".join(message["content"] for message in messages))
    mark = _unused_mark(messages) if found else ""
    defused = [
        {**message, "content": control.sub(lambda match: f"{mark}{found.index(match[0])}{mark}", message["content"])}
        if found
        else message
        for message in messages
    ]
    text = tokenizer.apply_chat_template(defused, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    if not found:
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    ids: list[int] = []
    for place, piece in enumerate(text.split(mark)):
        if place % 2:  # between two marks: the number of a control string that the content spelled out
            ids += encode_text(tokenizer, found[int(piece)])
        else:
            ids += tokenizer(piece, add_special_tokens=False)["input_ids"]
    return ids


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of plain text: no template, nothing in it becomes a control token."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def encode_completion(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the ids of a finished answer: its text as plain text, then the end token."""
    return [*encode_text(tokenizer, text), tokenizer.eos_token_id]


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the text of a completion without its control tokens."""
    return tokenizer.decode(list(ids), skip_special_tokens=True)


@lru_cache(maxsize=8)
def _control_strings(tokenizer: PreTrainedTokenizerBase) -> re.Pattern:
    added = sorted((str(token) for token in tokenizer.get_added_vocab()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, added)) or r"(?!)")


def _unused_mark(messages: Sequence[Message]) -> str:
    """Return a private-use character that no message holds."""
    used = set("".join(message["content"] for message in messages))
    return next(chr(code) for code in range(0xE000, 0xF8FF) if chr(code) not in used)
