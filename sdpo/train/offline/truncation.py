"""From a logged interaction to the token ids that it is trained on, within the limits of the contexts.

What is never cut: the follow-up and the text that shows it, the end of the last user message, a system message.
The oldest history goes first, then the beginning of the last user message. Both contexts keep the
same messages, so that the follow-up is the only difference between them.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from sdpo.text.chat import decode, encode_completion, encode_prompt, encode_text
from sdpo.text.prompts import Message, with_hindsight
from sdpo.text.records import Interaction


@dataclass(frozen=True)
class TruncationLimits:
    """The longest context and the longest completion, in tokens, and the template that shows the follow-up.

    With an `unrelated` follow-up there is a context that shows that one instead.
    """

    context: int
    completion: int
    template: str
    unrelated: str | None = None


@dataclass(frozen=True)
class TruncatedRow:
    """The ids of `x`, of `x, o`, of `y` and where asked for of `x, o∅`; what was cut of the context, and of `y`.

    `cut` is "history", "prompt" or "".
    """

    context: list[int]
    hindsight: list[int]
    completion: list[int]
    unrelated: list[int] | None = None
    cut: str = ""
    completion_cut: bool = False


def truncate(
    tokenizer: PreTrainedTokenizerBase, interaction: Interaction, limits: TruncationLimits
) -> TruncatedRow | None:
    """Return the row's ids within the limits, None where follow-up and system message alone are too long.

    A completion ends in the end token unless it had to be cut itself.
    """
    messages, cut = list(interaction.prompt), ""
    while True:
        hindsight, unrelated = (
            encode_prompt(tokenizer, with_hindsight(messages, text, limits.template)) if text else None
            for text in (interaction.user_response, limits.unrelated)
        )
        over = max(len(hindsight), len(unrelated or [])) - limits.context
        if over <= 0:
            break
        cut = "prompt" if len(_turns(messages)) == 1 else "history"
        shorter = _shorten(tokenizer, messages, over)
        if shorter is None:
            return None
        messages = shorter
    completion = encode_completion(tokenizer, interaction.completion)
    return TruncatedRow(
        context=encode_prompt(tokenizer, messages),
        hindsight=hindsight,
        completion=completion[: limits.completion],
        unrelated=unrelated,
        cut=cut,
        completion_cut=len(completion) > limits.completion,
    )


def _turns(messages: list[Message]) -> list[Message]:
    return messages[1:] if messages[0]["role"] == "system" else messages


def _shorten(tokenizer: PreTrainedTokenizerBase, messages: list[Message], over: int) -> list[Message] | None:
    """Return the messages with the oldest one cut by `over` tokens, or gone with its answer; None when none is left."""
    turns = _turns(messages)
    system = messages[: len(messages) - len(turns)]
    oldest, *others = turns
    ids = encode_text(tokenizer, oldest["content"])
    # Half a character at the new beginning is no text.
    text = decode(tokenizer, ids[over:]).lstrip("\ufffd") if len(ids) > over else ""
    if text.strip() and len(text) < len(oldest["content"]):
        return [*system, {**oldest, "content": text}, *others]
    # The user begins: an answer does not stay without its question.
    return [*system, *others[1:]] if others else None
