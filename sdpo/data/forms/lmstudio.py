"""Conversations that LM Studio keeps: each message in versions, of which the selected one is read."""

from typing import Any

from sdpo.data.conversation import Conversation, Dropped, SourceMessage
from sdpo.data.forms import Form
from sdpo.data.messages import content_of, is_finished, message, nonempty_text, role_of, system_text
from sdpo.data.shapes import Messages, conversation


def _matches(row: dict) -> bool:
    messages = row.get("messages")
    return isinstance(messages, list) and any(
        isinstance(one, dict) and isinstance(one.get("versions"), list) for one in messages
    )


def _read(row: dict, name: str) -> Conversation | Dropped:
    messages: list[SourceMessage] = system_text(row)
    for one in row["messages"]:
        version = _selected(one)
        read = _message(version) if isinstance(version, dict) else Dropped("a message that is not an object")
        if isinstance(read, Dropped):
            return read
        messages += read
    last = row.get("lastUsedModel")
    return conversation(row, name, messages, nonempty_text(last.get("name")) if isinstance(last, dict) else None)


def _selected(one: Any) -> Any:
    versions = one.get("versions") if isinstance(one, dict) else None
    if not isinstance(versions, list) or not versions:
        return one
    number = one.get("currentlySelected")
    return versions[number] if isinstance(number, int) and 0 <= number < len(versions) else versions[-1]


def _message(version: dict) -> Messages:
    role = role_of(version.get("role"))
    if role is None:
        return Dropped("a message of unknown role")
    steps = version.get("steps")
    if not isinstance(steps, list):
        content = content_of(version.get("content"))
        return content if isinstance(content, Dropped) else message(role, content)
    parts: list = []
    finished = True
    for step in steps:
        if not isinstance(step, dict):
            continue
        generated = step.get("genInfo")
        if isinstance(generated, dict) and isinstance(generated.get("stats"), dict):
            finished = is_finished(generated["stats"])  # the last one's: generation can be continued
        if step.get("type") == "contentBlock" and isinstance(step.get("content"), list):
            style = step.get("style")
            thinking = isinstance(style, dict) and style.get("type") == "thinking"
            parts += [{"type": "thinking"}] if thinking else step["content"]
        elif "tool" in str(step.get("type")).lower():
            parts.append({"type": "tool_call"})
    content = content_of([_part(part) for part in parts])
    return content if isinstance(content, Dropped) else message(role, content, finished=finished)


def _part(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    return {"type": "tool_call"} if isinstance(kind, str) and "tool" in kind.lower() else part


FORM = Form("LM Studio conversation", _matches, _read)
