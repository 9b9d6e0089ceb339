"""Turns the messages of one conversation into interactions. Pure functions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from sdpo.text.prompts import Message
from sdpo.text.records import Interaction, is_encodable

HISTORY = 5  # messages kept before the answer, not counting the system message

# The names of the roles in the various formats.
ROLES = {
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "claude", "model", "ai", "bot"),
    "system": ("system", "developer"),
    "tool": ("tool", "function", "observation", "function_call", "function_response", "tool_call", "tool_response"),
}
_ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
_TOOL_PARTS = {"tool_use", "tool_result", "tool_call", "function_call", "server_tool_use"}


class Dropped(NamedTuple):
    """The reason why a row, conversation or answer is dropped; `where` is its file and row, if known."""

    reason: str
    where: str = ""


class SourceMessage(NamedTuple):
    """The text of one message; the role is user, assistant, system or tool."""

    role: str
    text: str


@dataclass
class Conversation:
    """A conversation in chronological order; `rows` is the number of rows of the source that it came from."""

    id: str
    messages: list[SourceMessage]
    model: str | None = None
    timestamp: str | None = None
    rows: int = 1


@dataclass
class _Turn:
    role: str
    text: str
    uses_tools: bool = False


@dataclass(frozen=True)
class Limits:
    """Limits on a conversation.

    messages: at least this many messages with text. characters: at most this many in all. answer, user_message: at
    most this many characters in one answer and in one user message.
    """

    messages: int = 3
    characters: int = 100_000
    answer: int = 4096
    user_message: int | None = None


@dataclass
class Turns:
    """Alternating turns of user and assistant, and system texts, each with the index of the turn it precedes."""

    turns: list[_Turn] = field(default_factory=list)
    systems: list[tuple[int, str]] = field(default_factory=list)


def interactions(conversation: Conversation) -> list[Interaction | Dropped]:
    """Return an interaction for each answer that a user replied to, or the reason why there is none."""
    joined = _joined(conversation.messages)
    results: list[Interaction | Dropped] = []
    for index, (turn, reply) in enumerate(zip(joined.turns, joined.turns[1:], strict=False)):
        if turn.role != "assistant":
            continue
        history = joined.turns[max(0, index - HISTORY) : index]
        if history and history[0].role == "assistant":
            history = history[1:]
        if not history:
            results.append(Dropped("nothing was asked before the answer"))
        elif turn.uses_tools or any(earlier.uses_tools for earlier in history):
            results.append(Dropped("a tool was used"))
        else:
            system = "\n\n".join(text for before, text in joined.systems if before <= index)
            prompt: list[Message] = [{"role": "system", "content": system}] if system else []
            prompt += [{"role": earlier.role, "content": earlier.text} for earlier in history]
            results.append(
                Interaction(
                    id=f"{conversation.id}_{index}",
                    conversation_id=conversation.id,
                    turn_id=index,
                    model=conversation.model,
                    timestamp=conversation.timestamp,
                    prompt=prompt,
                    completion=turn.text,
                    user_response=reply.text,
                )
            )
    return results


def over_limits(messages: Sequence[SourceMessage], limits: Limits) -> Dropped | None:
    """Return why a conversation is too short or too long, or None if it is within the limits."""
    lengths = {role: [len(text) for who, text in messages if text and who == role] for role in ("user", "assistant")}
    users, answers = lengths["user"], lengths["assistant"]
    if len(users) + len(answers) < limits.messages:
        return Dropped(f"fewer than {limits.messages} messages")
    if sum(users) + sum(answers) > limits.characters:
        return Dropped(f"more than {limits.characters:,} characters")
    if answers and max(answers) > limits.answer:
        return Dropped(f"an answer over {limits.answer:,} characters")
    if limits.user_message and users and max(users) > limits.user_message:
        return Dropped(f"a user message over {limits.user_message:,} characters")
    return None


def _joined(messages: Iterable[SourceMessage]) -> Turns:
    """Return the turns: consecutive messages of one role are joined, empty ones skipped, tools noted on their turn."""
    joined = Turns()
    turns = joined.turns
    for role, text in messages:
        if role == "tool":
            if not turns or turns[-1].role != "assistant":
                turns.append(_Turn("assistant", ""))
            turns[-1].uses_tools = True
        elif not text:
            continue
        elif role == "system":
            joined.systems.append((len(turns), text))
        elif turns and turns[-1].role == role:
            turns[-1].text = f"{turns[-1].text}\n\n{text}" if turns[-1].text else text
        else:
            turns.append(_Turn(role, text))
    return joined


# Reading messages


def read_messages(messages: Any) -> list[SourceMessage] | Dropped:
    """Return the messages of a list; each may be in any of the usual formats."""
    if not isinstance(messages, list) or not messages:
        return Dropped("no messages")
    results: list[SourceMessage] = []
    for message in messages:
        if not isinstance(message, dict):
            return Dropped("a message that is not an object")
        role = role_of(message.get("role") or message.get("from"))
        if role is None:
            return Dropped("a message of unknown role")
        content = message.get("content")
        text = text_of(message.get("value") if content is None else content)
        if isinstance(text, Dropped):
            return text
        results += text_and_tools(role, text, bool(message.get("tool_calls") or message.get("function_call")))
    return results


def text_and_tools(role: str, text: tuple[str, bool], uses_tools: bool) -> list[SourceMessage]:
    """Return the message, with a tool message after it (before a user's) if a tool was called.

    `text` is the message's text and whether its content holds tool calls, as from `text_of`.
    """
    content, tool_parts = text
    if not (uses_tools or tool_parts):
        return [SourceMessage(role, content)]
    return (
        [SourceMessage("tool", ""), SourceMessage(role, content)]
        if role == "user"
        else [SourceMessage(role, content), SourceMessage("tool", "")]
    )


def role_of(name: Any) -> str | None:
    """Return the role that a format's name stands for, or None for an unknown name."""
    return _ROLE_OF.get(name.strip().lower()) if isinstance(name, str) else None


def text_of(content: Any) -> tuple[str, bool] | Dropped:
    """Return the text of a message's content and whether it holds tool calls; content is a string or a list."""
    if content is None:
        return "", False
    if isinstance(content, str):
        text, tools = content, False
    elif isinstance(content, list):
        texts = [part if isinstance(part, str) else part.get("text") for part in content if _is_part(part)]
        tools = any(isinstance(part, dict) and part.get("type") in _TOOL_PARTS for part in content)
        text = "\n".join(text for text in texts if isinstance(text, str) and text)
    else:
        return Dropped("a message that is not text")
    if not is_encodable(text):
        return Dropped("text with half a character")
    return text.strip(), tools


def _is_part(part: Any) -> bool:
    """Return whether a part of a content is shown as text; thoughts, images and tool calls are not."""
    if isinstance(part, dict):
        return part.get("type") in (None, "text", "input_text", "output_text")
    return isinstance(part, str)


def id_of(row: dict, *names: str) -> str | None:
    """Return the first of the named fields that is usable as an id, or None."""
    for name in names:
        value = row.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str) and value.strip() and is_encodable(value):
            return value.strip()
    return None


def nonempty_text(value: Any) -> str | None:
    """Return a string that is not blank, stripped, or None for everything else."""
    return value.strip() if isinstance(value, str) and value.strip() and is_encodable(value) else None


def time_of(value: Any) -> str | None:
    """Return a point in time as a string, or None.

    A date, or a number of seconds or milliseconds since 1970, becomes ISO 8601; a string is kept, stripped.
    """
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value / 1000 if abs(value) > 1e11 else value, UTC).isoformat()
        except (ValueError, OverflowError, OSError):
            return None
    return nonempty_text(value)
