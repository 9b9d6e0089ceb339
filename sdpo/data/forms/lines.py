"""One message per row: a conversation id, a role, a text, and an order or a time."""

from collections.abc import Iterator
from typing import Any

from sdpo.data.columns import CONVERSATION_NAMES, ROLE_NAMES, TEXT_NAMES, TIME_NAMES, named
from sdpo.data.conversation import Conversation, Dropped, SourceMessage
from sdpo.data.forms import Form, Piece
from sdpo.data.forms.order import in_order, place_of, shown
from sdpo.data.messages import content_of, first, id_of, is_finished, message, nonempty_text, rating_in, role_of
from sdpo.data.times import time_of


def _matches(row: dict) -> bool:
    columns = named(row)
    return all(any(name in columns for name in names) for names in (CONVERSATION_NAMES, ROLE_NAMES, TEXT_NAMES))


def _read(row: dict, name: str) -> Piece | Dropped:
    row = named(row)
    conversation = id_of(row, *CONVERSATION_NAMES)
    if conversation is None:
        return Dropped("no conversation id")
    # A column such as `author` may hold a person's name.
    role = next((role for name in ROLE_NAMES if (role := role_of(row.get(name))) is not None), None)
    content = content_of(first(row, TEXT_NAMES))
    fault, column, messages = "", "", list[SourceMessage]()
    if role is None:
        fault, column = "a message of unknown role", shown(row, ROLE_NAMES, names=True)
    elif isinstance(content, Dropped):
        fault = content.reason
    else:
        read = content._replace(tools=content.tools or bool(row.get("tool_calls")))
        messages = message(role, read, rating=rating_in(row), finished=is_finished(row))
    value: dict[str, Any] = {
        **place_of(row), "fault": fault, "column": column, "messages": [list(one) for one in messages],
        "model": nonempty_text(row.get("model")), "time": time_of(first(row, TIME_NAMES)),
    }  # fmt: skip
    return Piece(conversation, value)


def _join(pieces: list[Piece]) -> Iterator[Conversation | Dropped]:
    """Yield the conversation that the rows form; without order or time, they stay in the order of the file."""
    faulty = next((piece for piece in pieces if piece.value["fault"]), None)
    if faulty is not None:
        column = faulty.value["column"]
        where = f"{faulty.where}: {column}" if column else faulty.where
        yield from [Dropped(faulty.value["fault"], where)] * len(pieces)
        return
    ordered = in_order(pieces)
    if isinstance(ordered, Dropped):
        yield from [ordered] * len(pieces)
        return
    messages = [SourceMessage(*one) for piece in ordered for one in piece.value["messages"]]
    model = next((piece.value["model"] for piece in ordered if piece.value["model"]), None)
    when = next((piece.value["time"] for piece in ordered if piece.value["time"]), None)
    yield Conversation(pieces[0].key, messages, model, when, rows=len(pieces))


FORM = Form("one message per line", _matches, _read, _join, last=True)
