"""The session files of Claude Code: one event per line, of which the branch that the session ended on is read."""

import re
from collections.abc import Iterator
from typing import Any

from sdpo.data.conversation import FAILED, Conversation, Dropped, SourceMessage
from sdpo.data.forms import Form, Piece
from sdpo.data.messages import id_of, nonempty_text, read_message
from sdpo.data.shapes import BROKEN, branch
from sdpo.data.times import time_of

_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)
# What the client writes into the user's turn: commands and their output, not the user's words to the model.
_CLIENT = re.compile(
    r"\s*(?:<(?:command-name|command-message|command-args|local-command-\w+|bash-\w+|task-notification)>"
    r"|Caveat: The messages below|This session is being continued from a previous conversation)"
)
_INTERRUPTED = re.compile(r"\s*\[Request interrupted by user[^\]]*\]\s*")


def _matches(row: dict) -> bool:
    session = "sessionId" in row and "uuid" in row
    return session or (row.get("type") in ("summary", "file-history-snapshot", "queue-operation", "custom-title")
                       and ("leafUuid" in row or "messageId" in row or "sessionId" in row))  # fmt: skip


def _read(row: dict, name: str) -> Piece | Dropped:
    session, own = id_of(row, "sessionId"), id_of(row, "uuid")
    if session is None or own is None:
        return Dropped("a line of a session that is no message")
    message = row.get("message")
    messages: list[SourceMessage] = []
    fault = ""
    hidden = row.get("isMeta") is True or row.get("isCompactSummary") is True
    if row.get("type") in ("user", "assistant") and not hidden:
        read = _message(row, message)
        fault = read.reason if isinstance(read, Dropped) else ""
        messages = [] if isinstance(read, Dropped) else read
    parent = row.get("parentUuid") or row.get("logicalParentUuid")
    value: dict[str, Any] = {
        "id": own, "parent": parent if isinstance(parent, str) else None, "side": row.get("isSidechain") is True,
        "messages": [list(one) for one in messages], "fault": fault, "time": time_of(row.get("timestamp")),
        "model": nonempty_text(message.get("model")) if isinstance(message, dict) else None,
    }  # fmt: skip
    return Piece(session, value)


def _message(row: dict, message: Any) -> list[SourceMessage] | Dropped:
    if row.get("isApiErrorMessage") is True:
        return [SourceMessage("assistant", "", FAILED)]
    read = read_message(message)
    if isinstance(read, Dropped) or row.get("type") != "user":
        return read
    results = []
    for one in read:
        text = _REMINDER.sub("", one.text)
        if one.role == "user" and _CLIENT.match(text):
            continue
        text = _INTERRUPTED.sub("", text).strip()
        finished = not _INTERRUPTED.search(one.text)  # of the answer before it, see _join
        results.append(one._replace(text=text, missing="" if text else one.missing or FAILED, finished=finished))
    return results


def _join(pieces: list[Piece]) -> Iterator[Conversation | Dropped]:
    """Yield the session's conversation; what it ran in side tasks is not part of it, but counted as its rows."""
    main = [piece.value for piece in pieces if not piece.value["side"]]
    by_id = {value["id"]: value for value in main}
    kept = main
    if main and len(by_id) == len(main):
        names = branch({key: value["parent"] for key, value in by_id.items()}, main[-1]["id"])
        if isinstance(names, Dropped):
            yield from [BROKEN] * len(pieces)
            return
        # A chain with a gap is no branch: then the lines stay in the order of the file.
        whole = by_id[names[0]]["parent"] is None
        kept = [by_id[key] for key in names] if whole else main
    fault = next((value["fault"] for value in kept if value["fault"]), "")
    messages = _interrupted([SourceMessage(*one) for value in kept for one in value["messages"]])
    if fault or not messages:
        yield from [Dropped(fault or "no messages", pieces[0].where)] * len(pieces)
        return
    models = [value["model"] for value in kept if value["model"] and value["model"] != "<synthetic>"]
    when = next((value["time"] for value in kept if value["time"]), None)
    yield Conversation(pieces[0].key, messages, models[-1] if models else None, when, rows=len(pieces))


def _interrupted(messages: list[SourceMessage]) -> list[SourceMessage]:
    """Return the messages with the answers that the user interrupted as unfinished: the next message says so."""
    results: list[SourceMessage] = []
    for one in messages:
        if one.role == "user" and not one.finished and results and results[-1].role == "assistant":
            results[-1] = results[-1]._replace(finished=False)
        results.append(one._replace(finished=True) if one.role == "user" else one)
    return results


FORM = Form("Claude Code session", _matches, _read, _join)
