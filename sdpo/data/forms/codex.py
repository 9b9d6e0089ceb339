"""The session files of Codex: one event per line, one session per file."""

from collections.abc import Iterator
from typing import Any

from sdpo.data.conversation import Conversation, Dropped, SourceMessage
from sdpo.data.forms import Form, Piece
from sdpo.data.messages import id_of, nonempty_text, system_text
from sdpo.data.shapes import response_items
from sdpo.data.times import time_of

_EVENTS = ("session_meta", "response_item", "event_msg", "turn_context", "compacted")
# What the client writes into the user's turn before the user's own words.
_CONTEXT = ("<environment_context>", "<user_instructions>", "<permissions instructions>", "# AGENTS.md instructions",
            "<turn_aborted>", "<user_shell_command>", "<skill>", "<collaboration_mode>")  # fmt: skip


def _matches(row: dict) -> bool:
    return row.get("type") in _EVENTS and isinstance(row.get("payload"), dict)


def _read(row: dict, name: str) -> Piece | Dropped:
    payload = row["payload"]
    messages: list[SourceMessage] = []
    fault = ""
    if row["type"] == "response_item":
        read = response_items([payload])
        fault = read.reason if isinstance(read, Dropped) else ""
        messages = [] if isinstance(read, Dropped) else read
        messages = [one for one in messages if not one.text.lstrip().startswith(_CONTEXT)]
    elif row["type"] == "session_meta":
        messages = system_text(payload)
    value: dict[str, Any] = {
        "messages": [list(one) for one in messages], "fault": fault, "time": time_of(row.get("timestamp")),
        "model": nonempty_text(payload.get("model")),
        "session": id_of(payload, "id") if row["type"] == "session_meta" else None,
    }  # fmt: skip
    # Its lines do not name their session: all lines of a file belong to one.
    return Piece(name.rpartition("-")[0] or name, value)


def _join(pieces: list[Piece]) -> Iterator[Conversation | Dropped]:
    values = [piece.value for piece in pieces]
    fault = next((value["fault"] for value in values if value["fault"]), "")
    messages = [SourceMessage(*one) for value in values for one in value["messages"]]
    if fault or not messages:
        yield from [Dropped(fault or "no messages", pieces[0].where)] * len(pieces)
        return
    name = next((value["session"] for value in values if value["session"]), pieces[0].key)
    model = next((value["model"] for value in reversed(values) if value["model"]), None)
    when = next((value["time"] for value in values if value["time"]), None)
    yield Conversation(name, messages, model, when, rows=len(pieces))


FORM = Form("Codex session", _matches, _read, _join)
