"""The `conversations.json` of a ChatGPT account: a tree of messages, of which the branch that was kept is read."""

from typing import Any

from sdpo.data.conversation import FAILED, Conversation, Dropped, SourceMessage
from sdpo.data.forms import Form
from sdpo.data.messages import content_of, id_of, is_finished, message, nonempty_text, role_of
from sdpo.data.shapes import BROKEN, Messages, branch, conversation, newest_leaf

# Content types that were never shown as part of a question or an answer.
_CONTEXTS = ("user_editable_context", "model_editable_context")
_THOUGHTS = ("thoughts", "reasoning_recap")


def _matches(row: dict) -> bool:
    return isinstance(row.get("mapping"), dict) and "inserted_at" not in row


def _read(row: dict, name: str) -> Conversation | Dropped:
    nodes = row["mapping"]
    if not nodes or not all(isinstance(node, dict) for node in nodes.values()):
        return BROKEN
    parents = {key: node.get("parent") for key, node in nodes.items()}
    leaf = row.get("current_node")
    if not isinstance(leaf, str) or leaf not in nodes:
        leaf = newest_leaf(parents, lambda key: _field(nodes[key].get("message"), "create_time"))
    names = branch(parents, leaf) if leaf is not None else BROKEN
    if isinstance(names, Dropped):
        return names
    messages: list[SourceMessage] = []
    model = nonempty_text(row.get("default_model_slug"))
    for key in names:
        given = nodes[key].get("message")
        if given is None:
            continue
        part = _message(given)
        if isinstance(part, Dropped):
            return part
        messages += part
        model = nonempty_text(_field(given.get("metadata"), "model_slug")) or model
    return conversation(row, name, messages, model)


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _message(given: Any) -> Messages:
    if not isinstance(given, dict):
        return Dropped("a message that is not an object")
    content, metadata = given.get("content"), given.get("metadata")
    if _field(metadata, "is_visually_hidden_from_conversation"):
        return []
    role = role_of(_field(given.get("author"), "role"))
    if role is None:
        return Dropped("a message of unknown role")
    if role == "tool" or given.get("recipient") not in (None, "all"):
        return [SourceMessage("tool", "")]
    if not isinstance(content, dict):
        return Dropped("a message that is not text")
    kind = content.get("content_type")
    if kind in _CONTEXTS:
        return []
    own = id_of(given, "id") or ""
    if kind == "system_error":
        return [SourceMessage(role, "", FAILED, id=own)] if role != "system" else []
    if kind in _THOUGHTS or given.get("channel") == "analysis":
        read = content_of([{"type": "thinking"}])
    else:
        parts = content.get("parts")
        read = content_of([_part(part) for part in parts] if isinstance(parts, list) else content.get("text"))
    if isinstance(read, Dropped):
        return read
    attachments = _field(metadata, "attachments")
    finished = role != "assistant" or is_finished({**given, "finish_details": _field(metadata, "finish_details")})
    return message(role, read._replace(media=read.media or bool(attachments)), id=own, finished=finished)


def _part(part: Any) -> Any:
    """Return a part with a type: objects are pictures and the like, except for transcripts of speech."""
    if isinstance(part, dict):
        return {"type": part.get("content_type") or "file", "text": part.get("text")}
    return part


FORM = Form("ChatGPT export", _matches, _read)
