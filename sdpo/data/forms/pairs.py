"""One question and answer per row, with the user's follow-up beside them or in the next row of the conversation."""

from collections.abc import Iterator
from typing import Any

from sdpo.data.columns import (
    ANSWER_NAMES,
    CONVERSATION_NAMES,
    FOLLOW_UP_NAMES,
    PROMPT_NAMES,
    RATING_NAMES,
    TIME_NAMES,
    named,
)
from sdpo.data.conversation import Conversation, Dropped, SourceMessage
from sdpo.data.forms import Form, Piece
from sdpo.data.forms.order import in_order, place_of
from sdpo.data.messages import first, id_of, is_finished, nonempty_text, rating_in, rating_of, system_text
from sdpo.data.shapes import answer_messages, request_messages
from sdpo.data.times import time_of

# Without one of these, rows are questions and answers that nobody replied to.
_NO_RATING = ("neutral", "none", "null", "n/a", "na", "unrated")
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
    follow_up, rating = _follow_up(row), rating_in(row)
    reply = request_messages(follow_up) if follow_up else []
    if isinstance(reply, Dropped):
        return reply
    finished = is_finished(row)
    answer = [
        one._replace(rating=rating, finished=one.finished and finished) if one.role == "assistant" else one
        for one in answer
    ]
    value: dict[str, Any] = {
        **place_of(row), "calls": any(one.role == "assistant" for one in question),
        "messages": [list(one) for one in (*system_text(row), *question, *answer)],
        "reply": [list(one) for one in reply],
        "model": nonempty_text(row.get("model")), "time": time_of(first(row, TIME_NAMES)),
    }  # fmt: skip
    # A row that names no conversation is one of its own.
    return Piece(id_of(row, *CONVERSATION_NAMES) or id_of(row, "id") or name, value)


def _follow_up(row: dict) -> str | None:
    """Return what the user wrote next: a column that may hold a rating instead counts only if it does not."""
    for name in FOLLOW_UP_NAMES:
        value = row.get(name)
        if not isinstance(value, str) or not value.strip():
            continue
        if name not in RATING_NAMES or (rating_of(value) is None and value.strip().lower() not in _NO_RATING):
            return value
    return None


def _join(pieces: list[Piece]) -> Iterator[Conversation | Dropped]:
    if any(piece.value["calls"] for piece in pieces):
        # A question that holds earlier answers is a request that repeats the conversation so far.
        yield from (_joined([piece]) for piece in pieces)
        return
    ordered = in_order(pieces) if len(pieces) > 1 else pieces
    yield from [ordered] * len(pieces) if isinstance(ordered, Dropped) else [_joined(ordered)]


def _joined(pieces: list[Piece]) -> Conversation:
    messages: list[SourceMessage] = []
    for number, piece in enumerate(pieces):
        messages += [SourceMessage(*one) for one in piece.value["messages"]]
        reply = [SourceMessage(*one) for one in piece.value["reply"]]
        following = [one[1] for one in pieces[number + 1].value["messages"]] if number + 1 < len(pieces) else []
        # The follow-up may be the next row's question.
        messages += [one for one in reply if one.text not in following]
    first_piece = pieces[0]
    return Conversation(
        first_piece.key,
        messages,
        first_piece.value["model"],
        first_piece.value["time"],
        rows=len(pieces),
        logged=first_piece.value["calls"],
    )


FORM = Form("question and answer per row", _matches, _read, _join, last=True)
