"""Conversations exported from LibreChat: messages in a tree or in a list, of which the newest branch is read."""

import re
from typing import Any

from sdpo.data.conversation import FAILED, Conversation, Dropped, SourceMessage
from sdpo.data.forms import Form
from sdpo.data.messages import content_of, id_of, is_finished, message, nonempty_text, rating_in, system_text
from sdpo.data.shapes import BROKEN, Messages, branch, conversation, newest_leaf

_THOUGHTS = re.compile(r"\A\s*:::thinking[^\n]*\n(?:.*?\n)??:::[^\S\n]*(?:\n\s*|\Z)", re.DOTALL)


def _matches(row: dict) -> bool:
    messages = row.get("messages")
    return isinstance(messages, list) and any(
        isinstance(one, dict) and ("isCreatedByUser" in one or "parentMessageId" in one) for one in messages
    )


def _read(row: dict, name: str) -> Conversation | Dropped:
    nodes = _nodes(row["messages"])
    if isinstance(nodes, Dropped):
        return nodes
    parents = {key: node.get("parentMessageId") for key, node in nodes.items()}
    if not any(isinstance(parent, str) and parent in nodes for parent in parents.values()):
        names: list[str] | Dropped = list(nodes)  # a list without its tree is one branch
    else:
        leaf = newest_leaf(parents, lambda key: nodes[key].get("createdAt"))
        names = branch(parents, leaf) if leaf is not None else BROKEN
    if isinstance(names, Dropped):
        return names
    options = row.get("options")
    options = options if isinstance(options, dict) else {}
    messages: list[SourceMessage] = system_text(row) or system_text(options)
    for key in names:
        read = _message(nodes[key])
        if isinstance(read, Dropped):
            return read
        messages += read
    model = nonempty_text(options.get("model"))
    model = model or next((found for key in reversed(names) if (found := nonempty_text(nodes[key].get("model")))), None)
    return conversation(row, name, messages, model)


def _nodes(messages: list) -> dict[str, dict] | Dropped:
    """Return each message by its name, parents before children; children may be nested in their parents."""
    nodes: dict[str, dict] = {}
    waiting: list[tuple[Any, str | None]] = [(one, None) for one in reversed(messages)]
    while waiting:
        one, parent = waiting.pop()
        if not isinstance(one, dict):
            return Dropped("a message that is not an object")
        key = id_of(one, "messageId", "id") or f"message {len(nodes)}"
        if key in nodes:
            return BROKEN
        nodes[key] = one if parent is None else {**one, "parentMessageId": parent}
        children = one.get("children")
        waiting += [(child, key) for child in reversed(children if isinstance(children, list) else [])]
    return nodes


def _message(one: dict) -> Messages:
    created = one.get("isCreatedByUser")
    role = "user" if created is True or (created is None and one.get("sender") == "User") else "assistant"
    content = content_of(one.get("content") or _without_thoughts(one.get("text")))
    if isinstance(content, Dropped):
        return content
    if not content.text and isinstance(one.get("text"), str):
        flat = content_of(_without_thoughts(one["text"]))
        content = flat._replace(tools=content.tools) if not isinstance(flat, Dropped) and flat.text else content
    if one.get("error") is True and role == "assistant":
        return [SourceMessage(role, "", FAILED)]
    files = one.get("files")
    content = content._replace(media=content.media or (isinstance(files, list) and bool(files)))
    return message(role, content, rating=rating_in(one) if role == "assistant" else None, finished=is_finished(one))


def _without_thoughts(text: Any) -> Any:
    """Return a text without the block of thoughts that LibreChat puts in front of an answer."""
    return _THOUGHTS.sub("", text) if isinstance(text, str) else text


FORM = Form("LibreChat export", _matches, _read)
