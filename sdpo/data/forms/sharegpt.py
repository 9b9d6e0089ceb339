"""ShareGPT's `conversations`: a list of messages with `from` and `value`, a system text in it or beside it."""

from sdpo.data.conversation import Conversation, Dropped, SourceMessage
from sdpo.data.forms import Form
from sdpo.data.messages import read_messages, system_text
from sdpo.data.shapes import conversation

_MARKS = {"image": "<image>", "images": "<image>", "video": "<video>", "videos": "<video>", "audio": "<audio>",
          "audios": "<audio>"}  # fmt: skip


def _matches(row: dict) -> bool:
    return "conversations" in row or isinstance(row.get("conversation"), list)


def _read(row: dict, name: str) -> Conversation | Dropped:
    messages = read_messages(row.get("conversations") or row.get("conversation"))
    if isinstance(messages, Dropped):
        return messages
    for mark in {mark for field, mark in _MARKS.items() if row.get(field)}:
        messages = [_without(mark, message) for message in messages]
    return conversation(row, name, system_text(row) + messages)


def _without(mark: str, message: SourceMessage) -> SourceMessage:
    """Return the message without the mark of a picture that stands beside the row's text."""
    if mark not in message.text:
        return message
    text = message.text.replace(mark, "").strip()
    missing = "" if text else "a turn that is only a picture, a file or sound"
    return message._replace(text=text, missing=missing, beside=bool(text))


FORM = Form("ShareGPT conversations", _matches, _read, last=True)
