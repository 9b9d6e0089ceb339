"""From the messages of one conversation to its interactions. Pure: values in, values out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from sdpo.text.prompts import Message
from sdpo.text.records import Interaction, is_encodable

HISTORY = 5  # messages before the answer that are kept, the system message not counted

# What the formats call those who speak.
ROLES = {
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "claude", "model", "ai", "bot"),
    "system": ("system", "developer"),
    "tool": ("tool", "function", "observation", "function_call", "function_response", "tool_call", "tool_response"),
}
_ROLE_OF = {name: role for role, names in ROLES.items() for name in names}
_TOOL_PARTS = {"tool_use", "tool_result", "tool_call", "function_call", "server_tool_use"}


class Dropped(NamedTuple):
    """Why something is left out, and where it stands if that is known: a file and a row."""

    reason: str
    where: str = ""


class SourceMessage(NamedTuple):
    """What one message says; the role is user, assistant, system or tool."""

    role: str
    text: str


@dataclass
class Conversation:
    """A conversation in the order it was held; `rows` is how many rows of the source it took."""

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
    """What a conversation may be, in messages with text and in characters."""

    messages: int = 3
    characters: int = 100_000
    answer: int = 4096
    user_message: int | None = None


@dataclass
class Turns:
    """Turns that alternate between user and assistant, and the system texts by the turn they come before."""

    turns: list[_Turn] = field(default_factory=list)
    systems: list[tuple[int, str]] = field(default_factory=list)


def interactions(conversation: Conversation) -> list[Interaction | Dropped]:
    """Return what each answer that a user replied to becomes: an interaction, or why it is none."""
    joined = _joined(conversation.messages)
    found: list[Interaction | Dropped] = []
    for place, (turn, reply) in enumerate(zip(joined.turns, joined.turns[1:], strict=False)):
        if turn.role != "assistant":
            continue
        history = joined.turns[max(0, place - HISTORY) : place]
        if history and history[0].role == "assistant":
            history = history[1:]
        if not history:
            found.append(Dropped("nothing was asked before the answer"))
        elif turn.uses_tools or any(earlier.uses_tools for earlier in history):
            found.append(Dropped("a tool was used"))
        else:
            system = "\n\n".join(text for before, text in joined.systems if before <= place)
            prompt: list[Message] = [{"role": "system", "content": system}] if system else []
            prompt += [{"role": earlier.role, "content": earlier.text} for earlier in history]
            found.append(
                Interaction(
                    id=f"{conversation.id}_{place}",
                    conversation_id=conversation.id,
                    turn_id=place,
                    model=conversation.model,
                    timestamp=conversation.timestamp,
                    prompt=prompt,
                    completion=turn.text,
                    user_response=reply.text,
                )
            )
    return found


def over_limits(messages: Sequence[SourceMessage], limits: Limits) -> Dropped | None:
    """Return why a conversation is too short or too long, None where it is neither."""
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
    """Return the turns: messages of one role in a row joined, empty ones left out, tools noted on their turn."""
    found = Turns()
    turns = found.turns
    for role, text in messages:
        if role == "tool":
            if not turns or turns[-1].role != "assistant":
                turns.append(_Turn("assistant", ""))
            turns[-1].uses_tools = True
        elif not text:
            continue
        elif role == "system":
            found.systems.append((len(turns), text))
        elif turns and turns[-1].role == role:
            turns[-1].text = f"{turns[-1].text}\n\n{text}" if turns[-1].text else text
        else:
            turns.append(_Turn(role, text))
    return found


# Reading messages


def read_messages(messages: Any) -> list[SourceMessage] | Dropped:
    """Return what a list of messages says, whichever of the usual formats each of them is in."""
    if not isinstance(messages, list) or not messages:
        return Dropped("no messages")
    found: list[SourceMessage] = []
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
        found += text_and_tools(role, text, bool(message.get("tool_calls") or message.get("function_call")))
    return found


def text_and_tools(role: str, text: tuple[str, bool], uses_tools: bool) -> list[SourceMessage]:
    """Return what a message says, and after it a tool's turn where one was called."""
    words, tool_parts = text
    if not (uses_tools or tool_parts):
        return [SourceMessage(role, words)]
    return (
        [SourceMessage("tool", ""), SourceMessage(role, words)]
        if role == "user"
        else [SourceMessage(role, words), SourceMessage("tool", "")]
    )


def role_of(name: Any) -> str | None:
    """Return the role that a format's name for it stands for, None for an unknown one."""
    return _ROLE_OF.get(name.strip().lower()) if isinstance(name, str) else None


def text_of(content: Any) -> tuple[str, bool] | Dropped:
    """Return the text of a message's content and whether it holds tool calls; content is a text or its parts."""
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
    """Return whether a part of a content is shown as text; thoughts, pictures and tool calls are not."""
    if isinstance(part, dict):
        return part.get("type") in (None, "text", "input_text", "output_text")
    return isinstance(part, str)


def id_of(row: dict, *names: str) -> str | None:
    """Return the first of the named fields that can be an id, None without one."""
    for name in names:
        value = row.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, str) and value.strip() and is_encodable(value):
            return value.strip()
    return None


def nonempty_text(value: Any) -> str | None:
    """Return a text that is not empty as it is, None for everything else."""
    return value.strip() if isinstance(value, str) and value.strip() and is_encodable(value) else None


def time_of(value: Any) -> str | None:
    """Return a point in time as text: a date or seconds since 1970 in ISO form, a text as it is, else None."""
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(value / 1000 if abs(value) > 1e11 else value, UTC).isoformat()
        except (ValueError, OverflowError, OSError):
            return None
    return nonempty_text(value)
