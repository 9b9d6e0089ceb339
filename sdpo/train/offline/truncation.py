"""Turns a logged interaction into token ids for training, truncated to the length limits.

Never cut are the follow-up with the template's text around it, the end of the last user message, and a system message.
The oldest history is cut first, then the beginning of the last user message. The context and the hindsight context
keep the same messages, so that the follow-up is the only difference between them.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from sdpo.text.chat import decode, encode_answer, encode_prompt, encode_text
from sdpo.text.hindsight import HindsightTemplate, with_hindsight
from sdpo.text.prompts import Message
from sdpo.text.records import Interaction


@dataclass(frozen=True)
class TruncationLimits:
    """The maximum lengths of context and completion in tokens, and the hindsight template.

    With a `null` follow-up there is one more context, which shows that one instead of the user's.
    """

    context: int
    completion: int
    template: HindsightTemplate
    null: str | None = None


@dataclass(frozen=True)
class TruncatedRow:
    """The ids of `x`, `x, o`, `y` and, with a null follow-up, `x, o∅`; and what was truncated.

    `cut` is what was cut from the contexts: "history", "prompt" (the last user message) or "". `completion_cut` is
    True if `y` was truncated, or is not finished.
    """

    context: list[int]
    hindsight: list[int]
    completion: list[int]
    null: list[int] | None = None
    cut: str = ""
    completion_cut: bool = False


def truncate(
    tokenizer: PreTrainedTokenizerBase, interaction: Interaction, limits: TruncationLimits
) -> TruncatedRow | None:
    """Return the row's ids within the limits, or None if follow-up and system message alone are too long.

    A completion ends with the EOS token unless it was truncated, here or when it was generated.
    """
    messages, cut = list(interaction.prompt), ""
    while True:
        hindsight = encode_prompt(tokenizer, with_hindsight(messages, interaction.user_response, limits.template))
        null = None
        if limits.null:
            null = encode_prompt(tokenizer, with_hindsight(messages, limits.null, limits.template))
        over = max(len(hindsight), len(null or [])) - limits.context
        if over <= 0:
            break
        cut = "prompt" if len(_turns(messages)) == 1 else "history"
        shorter = _shorten(tokenizer, messages, over)
        if shorter is None:
            return None
        messages = shorter
    completion = encode_answer(tokenizer, interaction.completion, interaction.finished)
    return TruncatedRow(
        context=encode_prompt(tokenizer, messages),
        hindsight=hindsight,
        completion=completion[: limits.completion],
        null=null,
        cut=cut,
        completion_cut=len(completion) > limits.completion or not interaction.finished,
    )


def _turns(messages: list[Message]) -> list[Message]:
    return messages[1:] if messages[0]["role"] == "system" else messages


def _shorten(tokenizer: PreTrainedTokenizerBase, messages: list[Message], over: int) -> list[Message] | None:
    """Return the messages with `over` tokens cut from the oldest, or without it and its answer; None if none remain."""
    turns = _turns(messages)
    system = messages[: len(messages) - len(turns)]
    oldest, *others = turns
    ids = encode_text(tokenizer, oldest["content"])
    # The cut may split a character: its remaining bytes decode to U+FFFD.
    text = decode(tokenizer, ids[over:]).lstrip("\ufffd") if len(ids) > over else ""
    if text.strip() and len(text) < len(oldest["content"]):
        return [*system, {**oldest, "content": text}, *others]
    # The first message must be the user's: an answer is dropped with its question.
    return [*system, *others[1:]] if others else None
