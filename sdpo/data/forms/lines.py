"""One message per row: a conversation id, a role, a text, and an order or a time."""

from collections.abc import Iterator
from typing import Any

from sdpo.data.columns import CONVERSATION_NAMES, ORDER_NAMES, ROLE_NAMES, TEXT_NAMES, TIME_NAMES, named
from sdpo.data.conversation import Conversation, Dropped, SourceMessage
from sdpo.data.forms import Form, Piece
from sdpo.data.messages import content_of, first, id_of, message, nonempty_text, rating_in, role_of
from sdpo.data.times import moment, position, time_of


def _matches(row: dict) -> bool:
    columns = named(row)
    return all(any(name in columns for name in names) for names in (CONVERSATION_NAMES, ROLE_NAMES, TEXT_NAMES))


def _read(row: dict, name: str) -> Piece | Dropped:
    row = named(row)
    conversation = id_of(row, *CONVERSATION_NAMES)
    if conversation is None:
        return Dropped("no conversation id")
    role = role_of(first(row, ROLE_NAMES))
    content = content_of(first(row, TEXT_NAMES))
    order, when, column = first(row, ORDER_NAMES), first(row, TIME_NAMES), ""
    at = position(order) if order is not None else moment(when)
    if at is None and order is not None and moment(order) is not None:
        at = moment(order)
    fault, messages = "", list[SourceMessage]()
    if role is None:
        fault, column = "a message of unknown role", _shown(row, ROLE_NAMES)
    elif isinstance(content, Dropped):
        fault = content.reason
    elif at is None and (order is not None or when is not None):
        fault, column = (
            "an order or time that cannot be read",
            _shown(row, ORDER_NAMES if order is not None else TIME_NAMES),
        )
    else:
        read = content._replace(tools=content.tools or bool(row.get("tool_calls")))
        messages = message(role, read, rating=rating_in(row))
    value: dict[str, Any] = {
        "at": at, "fault": fault, "column": column, "messages": [list(one) for one in messages],
        "model": nonempty_text(row.get("model")), "time": time_of(when),
    }  # fmt: skip
    return Piece(conversation, value)


def _shown(row: dict, names: tuple[str, ...]) -> str:
    """Return the column and the value that cannot be read, shortened."""
    name = (
        next(name for name in names if row.get(name) not in (None, ""))
        if any(row.get(name) not in (None, "") for name in names)
        else names[0]
    )
    return f"{name} {str(row.get(name))[:40]!r}"


def _join(pieces: list[Piece]) -> Iterator[Conversation | Dropped]:
    """Yield the conversation that the rows form; without order or time, they stay in the order of the file."""
    faulty = next((piece for piece in pieces if piece.value["fault"]), None)
    ordered = [piece.value["at"] is not None for piece in pieces]
    if faulty is not None:
        column = faulty.value["column"]
        where = f"{faulty.where}: {column}" if column else faulty.where
        yield from [Dropped(faulty.value["fault"], where)] * len(pieces)
        return
    if any(ordered) and not all(ordered):
        missing = pieces[ordered.index(False)]
        yield from [Dropped("some of its messages have no order or time", missing.where)] * len(pieces)
        return
    pieces = sorted(pieces, key=lambda piece: piece.value["at"] or 0.0)
    messages = [SourceMessage(*one) for piece in pieces for one in piece.value["messages"]]
    model = next((piece.value["model"] for piece in pieces if piece.value["model"]), None)
    when = next((piece.value["time"] for piece in pieces if piece.value["time"]), None)
    yield Conversation(pieces[0].key, messages, model, when, rows=len(pieces))


FORM = Form("one message per line", _matches, _read, _join, last=True)
