"""One pure function a source: a raw row becomes records, or the reason why it does not."""

import re
from typing import Any

from sdpo.data.conversation import (
    Conversation,
    Dropped,
    Limits,
    id_of,
    nonempty_text,
    over_limits,
    read_messages,
    time_of,
)
from sdpo.text.records import is_encodable

TLDR_SUFFIX = "\nTL;DR:\n"
_TLDR_LENGTH = 1024  # characters that a prompt must stay below, its suffix included
_HELPSTEER_LENGTH = 2048
_SEVERAL_TURNS = re.compile(r"<extra_id_\d+>")
_ENGLISH = ("english", "en")

WILDFEEDBACK_LIMITS = Limits()
WILDCHAT_LIMITS = Limits(user_message=4096)


def tldr(row: dict) -> str | Dropped:
    """Return the prompt of a row of `openai/summarize_from_feedback`: the post, or else the article."""
    info = row.get("info")
    if not isinstance(info, dict):
        return Dropped("no info")
    text = _first_text(info.get("post"), info.get("article"))
    if isinstance(text, Dropped):
        return text
    prompt = text + TLDR_SUFFIX
    return prompt if len(prompt) < _TLDR_LENGTH else Dropped(f"{_TLDR_LENGTH:,} characters or more")


def helpsteer(row: dict) -> str | Dropped:
    """Return the prompt of a row of `nvidia/HelpSteer2`."""
    prompt, response = _first_text(row.get("prompt")), _first_text(row.get("response"))
    if isinstance(prompt, Dropped) or isinstance(response, Dropped):
        return prompt if isinstance(prompt, Dropped) else response
    if _SEVERAL_TURNS.search(prompt):
        return Dropped("several turns")
    if len(prompt) > _HELPSTEER_LENGTH or len(response) > _HELPSTEER_LENGTH:
        return Dropped(f"more than {_HELPSTEER_LENGTH:,} characters")
    return prompt


def wildfeedback(row: dict, number: int) -> Conversation | Dropped:
    """Return the conversation of a row of `microsoft/WildFeedback`, the `number`-th."""
    return _conversation(row, number, row.get("conversations") or row.get("conversation"), WILDFEEDBACK_LIMITS)


def wildchat(row: dict, number: int) -> Conversation | Dropped:
    """Return the conversation of a row of `allenai/WildChat`, the `number`-th."""
    language = row.get("language")
    if not isinstance(language, str) or language.strip().lower() not in _ENGLISH:
        return Dropped("not English")
    return _conversation(row, number, row.get("conversation"), WILDCHAT_LIMITS)


def marked(row: dict, toxic: bool, redacted: bool) -> Dropped | None:
    """Return why a row that the source itself has marked is left out, where that is asked for."""
    for name, asked in (("toxic", toxic), ("redacted", redacted)):
        if asked and row.get(name) is True:
            return Dropped(name)
    return None


def folded(prompt: str) -> str:
    """Return what two prompts that count as the same have in common: their words in lower case."""
    return " ".join(prompt.split()).lower()


def _conversation(row: dict, number: int, messages: Any, limits: Limits) -> Conversation | Dropped:
    messages = read_messages(messages)
    if isinstance(messages, Dropped):
        return messages
    name = id_of(row, "conversation_id", "conversation_hash", "id") or f"row-{number}"
    return over_limits(messages, limits) or Conversation(
        name, messages, nonempty_text(row.get("model")), time_of(row.get("timestamp"))
    )


def _first_text(*values: Any) -> str | Dropped:
    """Return the first value that is a text, stripped."""
    for value in values:
        if value is not None and not isinstance(value, str):
            return Dropped("not text")
        if value and value.strip():
            return value.strip() if is_encodable(value) else Dropped("text with half a character")
    return Dropped("empty")
