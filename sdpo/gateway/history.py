"""Recognises by its messages the conversation that a request goes on with.

A client repeats the whole conversation in each request. Each exchange is kept with a hash of all messages up to its
answer, so the longest beginning of a request that was said before is found without comparing texts. Pure functions.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sdpo.data.clean import cleaned
from sdpo.data.found import own_words

Message = dict[str, Any]
SYSTEM_ROLES = ("system", "developer")
_FIELDS = (
    "role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal", "reasoning_content",
    "reasoning",
)  # fmt: skip
_MARK = re.compile(r"\[([A-Z]+)_\d+\]")


def split_system(messages: Iterable[Message]) -> tuple[list[Message], list[Message]]:
    """Return the system messages and all others. They may change with the date, and are no part of what was said."""
    system, others = list[Message](), list[Message]()
    for message in messages:
        (system if message.get("role") in SYSTEM_ROLES else others).append(message)
    return system, others


def text_of(content: Any) -> str:
    """Return the text of a message's content: parts of text are joined, others stand there as JSON."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if not isinstance(content, list):
        return _json(content)
    parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part for part in content]
    return "\n".join(part if isinstance(part, str) else _json(part) for part in parts)


def message_hash(message: Message) -> str:
    """Return the hash of one message, the same for the forms in which clients send an answer back.

    Blank space around the text, thoughts in an answer, what a client found for a question, the names of tool calls and
    fields that are beside the conversation make no difference, nor do the numbers of marks of private values.
    """
    role, text = message.get("role"), text_of(message.get("content"))
    if role == "assistant" and "<" in text:
        text = cleaned(text).text
    if role == "user":
        text = own_words(text)
    calls = []
    for call in message.get("tool_calls") or []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            calls.append([function.get("name"), _arguments(function.get("arguments"))])
    value = [role, _MARK.sub(r"[\1]", text.strip()), calls]
    return hashlib.sha256(_json(value).encode()).hexdigest()


def hashes(messages: Sequence[Message], before: str = "") -> list[str]:
    """Return for each message the hash of all messages up to it, going on from the hash `before` them."""
    result = []
    for message in messages:
        before = chained(before, message)
        result.append(before)
    return result


def chained(before: str, message: Message) -> str:
    """Return the hash of the messages with the hash `before` and this one."""
    return hashlib.sha256(f"{before}:{message_hash(message)}".encode()).hexdigest()


def answer_points(messages: Sequence[Message]) -> list[int]:
    """Return the places of the messages that end an answer, the last first: what follows them can be new."""
    return [at for at in range(len(messages) - 1, -1, -1) if messages[at].get("role") == "assistant"]


def map_texts(message: Message, change: Callable[[str], str]) -> Message:
    """Return the message with `change` applied to each of its texts: content, thoughts, tool calls.

    Pictures, sound and files are left out; that they were there stays visible. So are fields that are beside the
    conversation.
    """
    kept = {"content": None, **message}
    changed = {name: kept[name] for name in _FIELDS if kept.get(name) is not None or name == "content"}
    for name in ("content", "reasoning_content", "reasoning", "refusal"):
        if name in changed:
            changed[name] = _content(changed[name], change)
    calls = changed.get("tool_calls")
    if isinstance(calls, list):
        changed["tool_calls"] = [_call(call, change) for call in calls]
    if "function_call" in changed:
        changed["function_call"] = _deep(changed["function_call"], change)
    return changed


def _content(content: Any, change: Callable[[str], str]) -> Any:
    if isinstance(content, list):
        return [_part(part, change) for part in content]
    return change(content) if isinstance(content, str) else _deep(content, change)


def _part(part: Any, change: Callable[[str], str]) -> Any:
    if not isinstance(part, dict):
        return _deep(part, change)
    kind = part.get("type")
    if kind in ("text", "refusal", "input_text", "output_text"):
        return _deep(part, change)
    return {"type": kind if isinstance(kind, str) else "unknown"}


def _call(call: Any, change: Callable[[str], str]) -> Any:
    if not isinstance(call, dict):
        return _deep(call, change)
    return {name: value if name in ("id", "type", "index") else _deep(value, change) for name, value in call.items()}


def _deep(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_deep(one, change) for one in value]
    if isinstance(value, dict):
        return {name: _deep(one, change) for name, one in value.items()}
    return value


def _arguments(value: Any) -> Any:
    """Return a tool call's arguments so that blank space in them makes no difference."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
