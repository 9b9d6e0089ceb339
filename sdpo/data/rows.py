"""One pure function per source: it turns a raw row into a prompt or a conversation, or gives the reason why not."""

import re
from typing import Any

from sdpo.data.conversation import Conversation, Dropped, Limits, over_limits
from sdpo.data.messages import id_of, nonempty_text, read_messages
from sdpo.data.times import time_of
from sdpo.text.records import is_encodable

TLDR_SUFFIX = "\nTL;DR:\n"
_TLDR_LENGTH = 1024  # a prompt must be shorter than this, in characters with its suffix
_HELPSTEER_LENGTH = 2048
_SEVERAL_TURNS = re.compile(r"<extra_id_\d+>")
_ENGLISH = ("english", "en")

WILDFEEDBACK_LIMITS = Limits()
WILDCHAT_LIMITS = Limits(user_message=4096)


def tldr(row: dict) -> str | Dropped:
    """Return the prompt of a row of `openai/summarize_from_feedback`: the post, or the article if there is none."""
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
    """Return the conversation of row `number` of `microsoft/WildFeedback`."""
    return _conversation(row, number, row.get("conversations") or row.get("conversation"), WILDFEEDBACK_LIMITS)


def wildchat(row: dict, number: int) -> Conversation | Dropped:
    """Return the conversation of row `number` of `allenai/WildChat`."""
    language = row.get("language")
    if not isinstance(language, str) or language.strip().lower() not in _ENGLISH:
        return Dropped("not English")
    return _conversation(row, number, row.get("conversation"), WILDCHAT_LIMITS)


def flagged(row: dict, drop_toxic: bool, drop_redacted: bool) -> Dropped | None:
    """Return why a row is dropped if the source flags it as toxic or redacted and such rows are to be dropped."""
    for name, drop in (("toxic", drop_toxic), ("redacted", drop_redacted)):
        if drop and row.get(name) is True:
            return Dropped(name)
    return None


def normalized(prompt: str) -> str:
    """Return the prompt in lower case with single spaces: prompts that agree in this are duplicates."""
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
    """Return the first string that is not blank, stripped."""
    for value in values:
        if value is not None and not isinstance(value, str):
            return Dropped("not text")
        if value and value.strip():
            return value.strip() if is_encodable(value) else Dropped("text with half a character")
    return Dropped("empty")
