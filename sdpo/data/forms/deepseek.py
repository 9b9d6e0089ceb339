"""The `conversations.json` of a DeepSeek account: a tree whose messages are fragments; the newest branch is read."""

from typing import Any

from sdpo.data.conversation import Conversation, Dropped
from sdpo.data.forms import Form
from sdpo.data.messages import content_of, message, rating_in, role_of
from sdpo.data.shapes import BROKEN, Messages, branch, conversation, newest_leaf, read_each

_FRAGMENTS = {
    "REQUEST": "text", "RESPONSE": "text", "TEMPLATE_RESPONSE": "text", "THINK": "thinking", "SEARCH": "tool_call",
    "READ_LINK": "tool_call", "TOOL_SEARCH": "tool_call", "TOOL_OPEN": "tool_call", "TIP": "flag",
}  # fmt: skip


def _matches(row: dict) -> bool:
    return isinstance(row.get("mapping"), dict) and "inserted_at" in row


def _read(row: dict, name: str) -> Conversation | Dropped:
    nodes = row["mapping"]
    if not nodes or not all(isinstance(node, dict) for node in nodes.values()):
        return BROKEN
    parents = {key: node.get("parent") for key, node in nodes.items()}
    leaf = row.get("current_message_id")
    leaf = str(leaf) if str(leaf) in nodes else newest_leaf(parents, lambda key: _time(nodes[key].get("message")))
    names = branch(parents, leaf) if leaf is not None else BROKEN
    if isinstance(names, Dropped):
        return names
    read = read_each([given for key in names if (given := nodes[key].get("message")) is not None], _message)
    if isinstance(read, Dropped):
        return read
    messages, model = read
    return conversation(row, name, messages, model)


def _time(given: Any) -> Any:
    return given.get("inserted_at") if isinstance(given, dict) else None


def _message(given: Any) -> Messages:
    if not isinstance(given, dict):
        return Dropped("a message that is not an object")
    fragments = given.get("fragments")
    if isinstance(fragments, list):
        kinds = [str(one.get("type")).upper() for one in fragments if isinstance(one, dict)]
        role: str | None = "user" if "REQUEST" in kinds else "assistant"
        parts = [_part(one) for one in fragments if isinstance(one, dict)]
        content = content_of(parts)
    else:
        role = role_of(given.get("role"))
        content = content_of(given.get("content"))
    if role is None:
        return Dropped("a message of unknown role")
    if isinstance(content, Dropped):
        return content
    files = given.get("files")
    content = content._replace(media=content.media or (isinstance(files, list) and bool(files)))
    return message(role, content, rating=rating_in(given) if role == "assistant" else None)


def _part(fragment: dict) -> dict:
    kind = _FRAGMENTS.get(str(fragment.get("type")).upper(), "file")
    return {"type": kind, "text": fragment.get("content")}


FORM = Form("DeepSeek export", _matches, _read)
