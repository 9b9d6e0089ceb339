"""The `conversations.json` of a Claude account: where messages were edited, the branch that was kept is read."""

from typing import Any

from sdpo.data.conversation import MEDIA, Conversation, Dropped, SourceMessage
from sdpo.data.forms import Form
from sdpo.data.messages import content_of, id_of, message, role_of
from sdpo.data.shapes import Messages, branch, conversation


def _matches(row: dict) -> bool:
    return "chat_messages" in row


def _read(row: dict, name: str) -> Conversation | Dropped:
    exported = row.get("chat_messages")
    if not isinstance(exported, list) or not exported:
        return Dropped("no messages")
    if not all(isinstance(one, dict) for one in exported):
        return Dropped("a message that is not an object")
    by_id = {key: one for one in exported if (key := id_of(one, "uuid"))}
    if len(by_id) == len(exported) and any(_parent(one) in by_id for one in exported):
        leaf = row.get("current_leaf_message_uuid")
        leaf = leaf if isinstance(leaf, str) and leaf in by_id else list(by_id)[-1]
        names = branch({key: _parent(one) for key, one in by_id.items()}, leaf)
        if isinstance(names, Dropped):
            return names
        exported = [by_id[key] for key in names]
    messages: list[SourceMessage] = []
    for one in exported:
        read = _message(one)
        if isinstance(read, Dropped):
            return read
        messages += read
    return conversation(row, name, messages)


def _parent(one: dict) -> str | None:
    parent = one.get("parent_message_uuid")
    return parent if isinstance(parent, str) else None


def _message(one: dict) -> Messages:
    role = role_of(one.get("sender") or one.get("role"))
    if role is None:
        return Dropped("a message of unknown role")
    content = content_of(one.get("content"))
    if isinstance(content, Dropped):
        return content
    if not content.text:
        flat = content_of(one.get("text"))
        if isinstance(flat, Dropped):
            return flat
        content = content._replace(text=flat.text, missing="" if flat.text else content.missing or flat.missing)
    pasted, without_text = _attachments(one)
    if pasted and role == "user":
        content = content._replace(text="\n\n".join(text for text in (content.text, *pasted) if text), missing="")
    if without_text:
        content = content._replace(media=True, missing="" if content.text else MEDIA)
    return message(role, content, id=id_of(one, "uuid") or "")


def _attachments(one: dict) -> tuple[list[str], bool]:
    """Return the texts that were pasted or extracted, and whether there are files without text."""
    pasted: list[str] = []
    without_text = _has(one.get("files")) or _has(one.get("files_v2"))
    attachments = one.get("attachments")
    for attachment in attachments if isinstance(attachments, list) else []:
        text: Any = attachment.get("extracted_content") if isinstance(attachment, dict) else None
        read = content_of(text) if isinstance(text, str) else Dropped("")
        if not isinstance(read, Dropped) and read.text:
            pasted.append(read.text)
        else:
            without_text = True
    return pasted, without_text


def _has(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


FORM = Form("Claude export", _matches, _read)
