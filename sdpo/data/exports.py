"""Formats of exported and logged conversations. Pure functions: row in, conversation or the reason why not out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sdpo.data.conversation import (
    Conversation,
    Dropped,
    SourceMessage,
    id_of,
    nonempty_text,
    read_messages,
    role_of,
    text_and_tools,
    text_of,
    time_of,
)

OPENAI = "OpenAI messages"
SHAREGPT = "ShareGPT conversations"
CHATGPT = "ChatGPT export"
CLAUDE = "Claude export"
MESSAGES = "one message per line"
FORMATS = (OPENAI, SHAREGPT, CHATGPT, CLAUDE, MESSAGES)

# Column names that the usual tools write where each line is one message.
CONVERSATION_NAMES = (
    "conversation_id", "conversation", "conv_id", "chat_id", "session_id", "thread_id", "dialogue_id", "dialog_id",
)  # fmt: skip
ROLE_NAMES = ("role", "from", "sender", "author", "speaker")
TEXT_NAMES = ("content", "text", "value", "message", "body")
ORDER_NAMES = ("order", "index", "turn", "turn_id", "turn_index", "position", "message_index", "sequence", "number")
TIME_NAMES = ("timestamp", "time", "created_at", "create_time", "created", "date", "datetime")

# Content types of a ChatGPT export that were never shown as part of a question or an answer.
_UNSHOWN = {"thoughts", "reasoning_recap", "user_editable_context", "model_editable_context", "system_error"}
_BROKEN = Dropped("a broken tree of messages")


@dataclass(frozen=True)
class Line:
    """One message, in the format with one message per line; `order` is its position or its time in seconds."""

    conversation: str
    order: float | None
    messages: list[SourceMessage] | Dropped
    model: str | None = None
    timestamp: str | None = None


def format_of(row: dict) -> str | None:
    """Return the format of a row, or None if it is unknown."""
    if isinstance(row.get("mapping"), dict):
        return CHATGPT
    if "chat_messages" in row:
        return CLAUDE
    if "messages" in row:
        return OPENAI
    if "conversations" in row or isinstance(row.get("conversation"), list):
        return SHAREGPT
    names = (CONVERSATION_NAMES, ROLE_NAMES, TEXT_NAMES)
    return MESSAGES if all(any(name in row for name in group) for group in names) else None


def conversation_of(row: dict, format_name: str, default_id: str) -> Conversation | Dropped:
    """Return the conversation of a row in any format but one message per line."""
    messages, model = _READERS[format_name](row)
    if isinstance(messages, Dropped):
        return messages
    name = id_of(row, "conversation_id", "id", "uuid", "conversation_hash") or default_id
    when = next((row[field] for field in (*TIME_NAMES, "updated_at", "update_time") if row.get(field)), None)
    return Conversation(name, messages, model or nonempty_text(row.get("model")), time_of(when))


def line_of(row: dict) -> Line | Dropped:
    """Return the message of a row in the format with one message per line."""
    conversation = id_of(row, *CONVERSATION_NAMES)
    if conversation is None:
        return Dropped("no conversation id")
    role = role_of(_first(row, ROLE_NAMES))
    text = text_of(_first(row, TEXT_NAMES))
    order, when = _first(row, ORDER_NAMES), _first(row, TIME_NAMES)
    position = _number(order) if order is not None else _number(when)
    messages: list[SourceMessage] | Dropped
    if role is None:
        messages = Dropped("a message of unknown role")
    elif isinstance(text, Dropped):
        messages = text
    elif position is None and (order is not None or when is not None):
        messages = Dropped("an order or time that cannot be read")
    else:
        messages = text_and_tools(role, text, bool(row.get("tool_calls")))
    return Line(conversation, position, messages, nonempty_text(row.get("model")), time_of(when))


def conversation_of_lines(lines: list[Line]) -> Conversation | Dropped:
    """Return the conversation that the lines form; without order or time, they stay in the order of the file."""
    readable: list[tuple[Line, list[SourceMessage]]] = []
    for line in lines:
        if isinstance(line.messages, Dropped):
            return line.messages
        readable.append((line, line.messages))
    if any((line.order is None) != (lines[0].order is None) for line in lines):
        return Dropped("some of its messages have no order or time")
    ordered = sorted(readable, key=lambda item: item[0].order or 0.0)
    messages = [message for _, line_messages in ordered for message in line_messages]
    model = next((line.model for line, _ in ordered if line.model), None)
    when = next((line.timestamp for line, _ in ordered if line.timestamp), None)
    return Conversation(lines[0].conversation, messages, model, when, rows=len(lines))


def _first(row: dict, names: Iterable[str]) -> Any:
    """Return the first of the named fields that is not empty."""
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _number(value: Any) -> float | None:
    """Return a sort key: a number, or a date as seconds since 1970; None if it cannot be parsed."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    except (ValueError, TypeError):
        try:
            when = datetime.fromisoformat(str(value).strip())
            number = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return None
    return number if abs(number) < float("inf") else None


# Lists of messages


def _read_openai(row: dict) -> tuple[list[SourceMessage] | Dropped, str | None]:
    return read_messages(row.get("messages")), None


def _read_sharegpt(row: dict) -> tuple[list[SourceMessage] | Dropped, str | None]:
    return read_messages(row.get("conversations") or row.get("conversation")), None


# Trees of messages


def _branch(parents: Mapping[str, Any], leaf: str) -> list[str] | Dropped:
    """Return the names of the messages from the root to a leaf, given each name's parent."""
    names: list[str] = []
    seen: set[str] = set()
    name: Any = leaf
    while isinstance(name, str) and name in parents:
        if name in seen:
            return _BROKEN
        seen.add(name)
        names.append(name)
        name = parents[name]
    return names[::-1]


def _read_chatgpt(row: dict) -> tuple[list[SourceMessage] | Dropped, str | None]:
    """Return the messages of the branch that the conversation ended on, and the model."""
    nodes = row["mapping"]
    if not nodes or not all(isinstance(node, dict) for node in nodes.values()):
        return _BROKEN, None
    parents = {name: node.get("parent") for name, node in nodes.items()}
    leaf = row.get("current_node")
    if not isinstance(leaf, str) or leaf not in nodes:
        leaf = _newest_leaf(nodes, parents)
    branch = _branch(parents, leaf) if leaf is not None else _BROKEN
    if isinstance(branch, Dropped):
        return branch, None
    messages: list[SourceMessage] = []
    model = nonempty_text(row.get("default_model_slug"))
    for name in branch:
        message = nodes[name].get("message")
        if message is None:
            continue
        part = _chatgpt_message(message)
        if isinstance(part, Dropped):
            return part, None
        messages += part
        metadata = message.get("metadata")
        model = (nonempty_text(metadata.get("model_slug")) if isinstance(metadata, dict) else None) or model
    return messages or Dropped("no messages"), model


def _newest_leaf(nodes: Mapping[str, dict], parents: Mapping[str, Any]) -> str | None:
    """Return the leaf with the latest time. Leaves without a time count as the oldest; of equal ones, the last wins."""
    with_children = {parent for parent in parents.values() if isinstance(parent, str)}
    leaves = [name for name in nodes if name not in with_children]

    def when(name: str) -> float:
        message = nodes[name].get("message")
        return (_number(message.get("create_time")) if isinstance(message, dict) else None) or 0.0

    return max(reversed(leaves), key=when, default=None)


def _chatgpt_message(message: Any) -> list[SourceMessage] | Dropped:
    if not isinstance(message, dict):
        return Dropped("a message that is not an object")
    author, content, metadata = (message.get(name) for name in ("author", "content", "metadata"))
    if isinstance(metadata, dict) and metadata.get("is_visually_hidden_from_conversation"):
        return []
    role = role_of(author.get("role")) if isinstance(author, dict) else None
    if role is None:
        return Dropped("a message of unknown role")
    if role == "tool" or message.get("recipient") not in (None, "all"):
        return [SourceMessage("tool", "")]
    if not isinstance(content, dict):
        return Dropped("a message that is not text")
    if content.get("content_type") in _UNSHOWN:
        return []
    parts = content.get("parts")
    # Parts that are objects are images and the like, except for transcripts of speech.
    text = text_of([part for part in parts if _is_text(part)] if isinstance(parts, list) else content.get("text"))
    return text if isinstance(text, Dropped) else text_and_tools(role, text, False)


def _is_text(part: Any) -> bool:
    return isinstance(part, str) or (isinstance(part, dict) and part.get("content_type") == "audio_transcription")


def _read_claude(row: dict) -> tuple[list[SourceMessage] | Dropped, str | None]:
    """Return the messages (where some were edited: of the current or last branch) and no model."""
    exported = row.get("chat_messages")
    if not isinstance(exported, list) or not exported:
        return Dropped("no messages"), None
    if not all(isinstance(message, dict) for message in exported):
        return Dropped("a message that is not an object"), None
    by_id = {name: message for message in exported if (name := id_of(message, "uuid"))}
    if len(by_id) == len(exported) and any(message.get("parent_message_uuid") in by_id for message in exported):
        leaf = row.get("current_leaf_message_uuid")
        leaf = leaf if isinstance(leaf, str) and leaf in by_id else list(by_id)[-1]
        branch = _branch({name: message.get("parent_message_uuid") for name, message in by_id.items()}, leaf)
        if isinstance(branch, Dropped):
            return branch, None
        exported = [by_id[name] for name in branch]
    messages: list[SourceMessage] = []
    for message in exported:
        role = role_of(message.get("sender") or message.get("role"))
        if role is None:
            return Dropped("a message of unknown role"), None
        content = text_of(message.get("content"))
        if not isinstance(content, Dropped) and not content[0]:
            flat = text_of(message.get("text"))
            content = flat if isinstance(flat, Dropped) else (flat[0], content[1])
        if isinstance(content, Dropped):
            return content, None
        messages += text_and_tools(role, content, False)
    return messages, None


_READERS = {OPENAI: _read_openai, SHAREGPT: _read_sharegpt, CHATGPT: _read_chatgpt, CLAUDE: _read_claude}
