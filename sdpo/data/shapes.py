"""Shapes that several forms share: requests, answers, and trees of messages. Pure functions."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sdpo.data.conversation import Conversation, Dropped, SourceMessage
from sdpo.data.messages import (
    content_of,
    id_of,
    is_finished,
    message,
    nonempty_text,
    rating_in,
    read_message,
    read_messages,
    role_of,
    system_text,
    typed_parts,
)
from sdpo.data.times import moment, time_of

Messages = list[SourceMessage] | Dropped
BROKEN = Dropped("a broken tree of messages")
TIME_NAMES = (
    "timestamp", "time", "created_at", "create_time", "created", "createdAt", "createTime", "date", "datetime",
    "inserted_at", "startTime", "start_time", "request_created_at", "updated_at", "update_time",
)  # fmt: skip
ID_NAMES = ("conversation_id", "conversationId", "id", "uuid", "conversation_hash")


def read_each(
    given: Iterable[Any], read: Callable[[Any], Messages]
) -> tuple[list[SourceMessage], str | None] | Dropped:
    """Return the messages that `read` makes of each, with the last model that one names, or why they are dropped."""
    messages: list[SourceMessage] = []
    model = None
    for one in given:
        part = read(one)
        if isinstance(part, Dropped):
            return part
        messages += part
        model = nonempty_text(one.get("model")) or model
    return messages, model


def conversation(row: dict, name: str, messages: Messages, model: str | None = None) -> Conversation | Dropped:
    """Return the conversation with these messages; its id, model and time are the row's, its id else `name`."""
    if isinstance(messages, Dropped):
        return messages
    if not messages:
        return Dropped("no messages")
    when = next((row[field] for field in TIME_NAMES if row.get(field)), None)
    return Conversation(
        id_of(row, *ID_NAMES) or name, messages, model or nonempty_text(row.get("model")), time_of(when)
    )


def value_of(value: Any) -> Any:
    """Return what a text in JSON stands for, if it is an object or a list; everything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


# Requests and answers


def is_request(value: Any) -> bool:
    """Return whether a value is a request that `request_messages` reads."""
    if isinstance(value, list):
        return any(isinstance(one, dict) and (role_of(one.get("role")) or "content" in one) for one in value)
    return isinstance(value, dict) and any(name in value for name in ("messages", "contents", "input"))


def request_messages(value: Any) -> Messages:
    """Return the messages of a request: a text, a list of messages, or an object of one of the usual interfaces."""
    value = value_of(value)
    if isinstance(value, str):
        content = content_of(value)
        return content if isinstance(content, Dropped) else message("user", content)
    if isinstance(value, list):
        if len(value) == 1 and isinstance(value[0], list):  # a batch of one, as LangChain logs it
            value = value[0]
        return response_items(value) if any(_is_item(one) for one in value) else read_messages(value)
    if not isinstance(value, dict):
        return Dropped("no messages")
    for name in ("messages", "contents", "input", "prompt", "question"):
        if value.get(name):
            messages = request_messages(value[name])
            return messages if isinstance(messages, Dropped) else system_text(value) + messages
    return Dropped("no messages")


def _is_item(one: Any) -> bool:
    """Return whether this is an item of OpenAI's Responses that is no message, or has no role as one."""
    named = isinstance(one, dict) and isinstance(one.get("type"), str) and not one.get("role")
    return named and not any(name in one for name in ("content", "kwargs", "data", "text"))


def response_items(items: Any) -> Messages:
    """Return the messages of a list of items of OpenAI's Responses: messages, tool calls, reasoning."""
    if not isinstance(items, list):
        return Dropped("no messages")
    messages: list[SourceMessage] = []
    for item in items:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "reasoning":
            continue
        if isinstance(kind, str) and kind != "message" and "role" not in item and role_of(kind) in (None, "tool"):
            messages.append(SourceMessage("tool", ""))
            continue
        read = read_message(item)
        if isinstance(read, Dropped):
            return read
        messages += read
    return messages


def answer_messages(value: Any) -> list[SourceMessage]:
    """Return the answer that a logged response holds, in any of the usual shapes; none if it holds none."""
    value = value_of(value)
    if isinstance(value, list) and value:
        if any(_is_item(one) for one in value):
            items = response_items(value)
            return [] if isinstance(items, Dropped) else items
        return answer_messages(value[-1] if not isinstance(value[0], list) else value[0])
    if isinstance(value, str):
        return _assistant({"content": value})
    if not isinstance(value, dict):
        return []
    if _list(value, "choices"):
        choice = value["choices"][0]
        one = choice.get("message") or {"content": choice.get("text")} if isinstance(choice, dict) else {}
        return _ended(_assistant(one), choice) if isinstance(one, dict) else []
    if _list(value, "candidates"):
        candidate = value["candidates"][0]
        return _ended(answer_messages(candidate.get("content")), candidate) if isinstance(candidate, dict) else []
    if _list(value, "output"):
        items = response_items(value["output"])
        return [] if isinstance(items, Dropped) else _ended(items, value)
    if isinstance(value.get("parts"), list):
        return _assistant({"content": typed_parts(value["parts"])})
    for name in ("generations", "messages", "message", "output", "answer", "response", "result", "kwargs"):
        if value.get(name):
            return _ended(answer_messages(value[name]), value)
    return _assistant(value) if "content" in value or "text" in value else []


def _ended(answer: list[SourceMessage], given: Any) -> list[SourceMessage]:
    """Return the answer, unfinished if the object that holds it says so."""
    if isinstance(given, dict) and not is_finished(given):
        return [one._replace(finished=False) for one in answer]
    return answer


def _list(value: dict, name: str) -> bool:
    return isinstance(value.get(name), list) and bool(value[name])


def _assistant(value: dict) -> list[SourceMessage]:
    role = value.get("role") if isinstance(value.get("role"), str) else "assistant"
    if role_of(role) not in ("assistant", None):
        return []
    read = read_message({**value, "role": "assistant"})
    return [] if isinstance(read, Dropped) else read


def logged_call(row: dict, name: str, request: Any, response: Any) -> Conversation | Dropped:
    """Return the conversation of a logged call: the messages of the request and the answer, which holds the rating."""
    messages = request_messages(request)
    if isinstance(messages, Dropped):
        return messages
    answer = answer_messages(response)
    rating = rating_in(row)
    if rating is not None and answer:
        answer = [one._replace(rating=rating) if one.role == "assistant" else one for one in answer]
    inner = value_of(request)
    model = nonempty_text(inner.get("model")) if isinstance(inner, dict) else None
    result = conversation(row, name, messages + answer, model)
    if isinstance(result, Conversation):
        result.logged = True
    return result


# Trees


def branch(parents: Mapping[str, Any], leaf: str) -> list[str] | Dropped:
    """Return the names of the messages from the root to a leaf, given each name's parent."""
    names: list[str] = []
    seen: set[str] = set()
    name: Any = leaf
    while isinstance(name, str) and name in parents:
        if name in seen:
            return BROKEN
        seen.add(name)
        names.append(name)
        name = parents[name]
    return names[::-1]


def newest_leaf(parents: Mapping[str, Any], when: Callable[[str], Any]) -> str | None:
    """Return the leaf with the latest time. Leaves without a time count as the oldest; of equal ones, the last wins."""
    with_children = {parent for parent in parents.values() if isinstance(parent, str)}
    leaves = [name for name in parents if name not in with_children]
    return max(reversed(leaves), key=lambda name: moment(when(name)) or 0.0, default=None)
