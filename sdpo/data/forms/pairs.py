"""One question and answer per row, with the user's follow-up beside them or in the next row of the conversation."""

from collections.abc import Iterator
from typing import Any

from sdpo.data.columns import (
    ANSWER_NAMES,
    CONVERSATION_NAMES,
    FOLLOW_UP_NAMES,
    ORDER_NAMES,
    PROMPT_NAMES,
    TIME_NAMES,
    named,
)
from sdpo.data.conversation import Conversation, Dropped, SourceMessage
from sdpo.data.forms import Form, Piece
from sdpo.data.messages import first, id_of, nonempty_text, rating_in, rating_of, system_text
from sdpo.data.shapes import answer_messages, request_messages
from sdpo.data.times import moment, position, time_of

# Without one of these, rows are questions and answers that nobody replied to.
_TOGETHER = (*CONVERSATION_NAMES, *FOLLOW_UP_NAMES)


def _matches(row: dict) -> bool:
    columns = named(row)
    texts = (PROMPT_NAMES, ANSWER_NAMES, _TOGETHER)
    return all(any(columns.get(name) not in (None, "") for name in names) for names in texts)


def _read(row: dict, name: str) -> Piece | Dropped:
    row = named(row)
    question = request_messages(first(row, PROMPT_NAMES))
    if isinstance(question, Dropped):
        return question
    answer = answer_messages(first(row, ANSWER_NAMES)) or [SourceMessage("assistant", "", "a turn without text")]
    follow_up, rating = first(row, FOLLOW_UP_NAMES), rating_in(row)
    if rating_of(follow_up) is not None:
        follow_up = None
    reply = request_messages(follow_up) if isinstance(follow_up, str) else []
    if isinstance(reply, Dropped):
        return reply
    answer = [one._replace(rating=rating) if one.role == "assistant" else one for one in answer]
    order, when = first(row, ORDER_NAMES), first(row, TIME_NAMES)
    value: dict[str, Any] = {
        "at": position(order) if order is not None else moment(when),
        "messages": [list(one) for one in (*system_text(row), *question, *answer)],
        "reply": [list(one) for one in reply],
        "model": nonempty_text(row.get("model")), "time": time_of(when),
    }  # fmt: skip
    # A row that names no conversation is one of its own.
    return Piece(id_of(row, *CONVERSATION_NAMES) or id_of(row, "id") or name, value)


def _join(pieces: list[Piece]) -> Iterator[Conversation | Dropped]:
    if all(piece.value["at"] is not None for piece in pieces):
        pieces = sorted(pieces, key=lambda piece: piece.value["at"])
    messages: list[SourceMessage] = []
    for number, piece in enumerate(pieces):
        messages += [SourceMessage(*one) for one in piece.value["messages"]]
        reply = [SourceMessage(*one) for one in piece.value["reply"]]
        following = [one[1] for one in pieces[number + 1].value["messages"]] if number + 1 < len(pieces) else []
        # The follow-up may be the next row's question.
        messages += [one for one in reply if one.text not in following]
    first_piece = pieces[0]
    yield Conversation(
        first_piece.key, messages, first_piece.value["model"], first_piece.value["time"], rows=len(pieces)
    )


FORM = Form("question and answer per row", _matches, _read, _join, last=True)
