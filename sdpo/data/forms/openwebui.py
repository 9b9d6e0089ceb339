"""Chats exported from Open WebUI: a tree of messages under `chat`, of which the branch that was shown last is read."""

from typing import Any

from sdpo.data.conversation import FAILED, Conversation, Dropped, SourceMessage
from sdpo.data.forms import Form
from sdpo.data.messages import content_of, message, nonempty_text, rating_in, role_of, system_text
from sdpo.data.shapes import BROKEN, Messages, branch, conversation, newest_leaf, read_each


def _matches(row: dict) -> bool:
    return _history(row) is not None or _list(row) is not None


def _chat(row: dict) -> dict:
    chat = row.get("chat")
    return chat if isinstance(chat, dict) else row


def _history(row: dict) -> dict | None:
    history = _chat(row).get("history")
    return history if isinstance(history, dict) and isinstance(history.get("messages"), dict) else None


def _list(row: dict) -> list | None:
    chat = row.get("chat")
    return chat["messages"] if isinstance(chat, dict) and isinstance(chat.get("messages"), list) else None


def _read(row: dict, name: str) -> Conversation | Dropped:
    given = _kept(row)
    if isinstance(given, Dropped):
        return given
    chat = _chat(row)
    params = chat.get("params")
    first = system_text(chat) or (system_text(params) if isinstance(params, dict) else [])
    read = read_each(given, _message)
    if isinstance(read, Dropped):
        return read
    messages, model = read
    models = chat.get("models")
    model = model or (nonempty_text(models[0]) if isinstance(models, list) and models else None)
    return conversation(row if row.get("id") else chat, name, first + messages, model)


def _kept(row: dict) -> list[Any] | Dropped:
    """Return the messages of the branch that was shown last."""
    history = _history(row)
    nodes = history["messages"] if history else {}
    if not nodes:
        return _list(row) or Dropped("no messages")
    if not all(isinstance(node, dict) for node in nodes.values()):
        return BROKEN
    parents = {key: node.get("parentId") for key, node in nodes.items()}
    leaf = history.get("currentId") if history else None
    if not isinstance(leaf, str) or leaf not in nodes:
        leaf = newest_leaf(parents, lambda key: nodes[key].get("timestamp"))
    names = branch(parents, leaf) if leaf is not None else BROKEN
    return names if isinstance(names, Dropped) else [nodes[key] for key in names]


def _message(one: Any) -> Messages:
    if not isinstance(one, dict):
        return Dropped("a message that is not an object")
    role = role_of(one.get("role"))
    if role is None:
        return Dropped("a message of unknown role")
    content = content_of(one.get("content"))
    if isinstance(content, Dropped):
        return content
    files = one.get("files")
    if isinstance(files, list) and files:
        content = content_of([{"type": "text", "text": content.text}, {"type": "file"}])
        if isinstance(content, Dropped):
            return content
    if not content.text and one.get("error"):
        return [SourceMessage(role, "", FAILED)]
    return message(role, content, rating=rating_in(one) if role == "assistant" else None)


FORM = Form("Open WebUI export", _matches, _read)
