"""POST /v1/feedback: ratings in the gateway's own form and in Open WebUI's, as it sends and as it exports them."""

import json
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import JSONResponse

from sdpo.data.messages import rating_of
from sdpo.gateway.chat import read_body
from sdpo.gateway.conversations import Path, conversation_of, paths
from sdpo.gateway.exchanges import plain_id, rating_row
from sdpo.gateway.gateway import Call, Gateway
from sdpo.gateway.history import message_hash
from sdpo.gateway.keys import Refused
from sdpo.gateway.open_webui import rated_text
from sdpo.gateway.schema import EXCHANGES
from sdpo.gateway.stitching import own_id
from sdpo.gateway.store import Store, read_exchanges

_FORM = (
    'Send {"exchange": "x-...", "rating": 1 or -1, "comment": "..."}, or a conversation and the index of its message: '
    '{"conversation": "c-...", "message": 2, "rating": "up"}.'
)


@dataclass(frozen=True)
class Rating:
    """A rating as it was sent. `message` is an index into the conversation; `spoken` one without system messages.

    `text` is that of the rated answer, where the client sends it. `id` is the client's own name for the rating, so that
    it replaces an earlier one.
    """

    rating: int
    comment: str | None = None
    exchange: str | None = None
    conversation: str | None = None
    message: int | None = None
    spoken: int | None = None
    message_id: str | None = None
    text: str | None = None
    id: str | None = None
    user: str | None = None


async def feedback(request: Request, gateway: Gateway, call: Call) -> JSONResponse:
    """Store one rating or a list of them. A single one that fits nothing is an error, of a list they are counted."""
    try:
        body = json.loads(await read_body(request))
    except (ValueError, RecursionError):
        raise Refused(400, "invalid_json", f"The feedback is no JSON. {_FORM}") from None
    several = isinstance(body, list)
    given = [read_rating(one) for one in (body if several else [body])]
    rows, unknown = await gateway.in_thread(_rows, gateway, call.key.name, [one for one in given if one is not None])
    if not several and given[0] is None:
        raise Refused(400, "invalid_feedback", f"This is no rating. {_FORM}")
    if not several and unknown:
        raise Refused(404, "not_found", f"No answer of this gateway fits that. {_FORM}")
    await gateway.writer.write({"ratings": rows})
    gateway.metrics.ratings += len(rows)
    stored = [{"exchange": row["exchange"], "conversation": row["conversation"], "id": row["id"]} for row in rows]
    return JSONResponse({"object": "feedback", "stored": stored, "unknown": unknown, "no_rating": given.count(None)})


def _rows(gateway: Gateway, key: str, ratings: list[Rating]) -> tuple[list[dict[str, Any]], int]:
    """Return the rows of the ratings that fit an answer, and how many fit none."""
    rows = []
    for rating in ratings:
        if rating.text:
            rating = replace(rating, text=_redacted(gateway, rating.text))
        exchange = find_exchange(gateway.store, key, rating)
        if exchange is not None:
            comment = rating.comment and _redacted(gateway, rating.comment)
            rows.append(rating_row(exchange, rating.rating, comment, rating.id))
    return list({row["id"]: row for row in rows}.values()), len(ratings) - len(rows)


def _redacted(gateway: Gateway, text: str) -> str:
    return gateway.redactor.for_conversation([text])(text)


def read_rating(given: Any) -> Rating | None:
    """Return the rating that an object is, None if it is none."""
    if not isinstance(given, dict):
        return None
    if isinstance(given.get("data"), dict) and isinstance(given.get("meta"), dict):
        return _of_open_webui(given, given["data"], given["meta"])
    sign = _sign(given.get("rating"))
    index = given.get("message")
    if sign is None or not (given.get("exchange") or given.get("conversation")):
        return None
    return Rating(
        sign,
        _comment(given.get("comment")),
        exchange=_name(given.get("exchange")),
        conversation=_name(given.get("conversation")),
        message=index if isinstance(index, int) and not isinstance(index, bool) else None,
        message_id=_name(index) if isinstance(index, str) else None,
    )


def _of_open_webui(given: dict[str, Any], data: dict[str, Any], meta: dict[str, Any]) -> Rating | None:
    """Return a record of Open WebUI: its `meta` names chat and message, whose index counts from 1 without system."""
    sign = _sign(data.get("rating"))
    if sign is None or not meta.get("chat_id"):
        return None
    number = meta.get("message_index")
    parts = [data.get("reason"), data.get("comment")]
    return Rating(
        sign,
        _comment("; ".join(part.strip() for part in parts if isinstance(part, str) and part.strip())),
        conversation=_name(meta["chat_id"]),
        message_id=_name(meta.get("message_id")),
        text=rated_text(given, meta.get("message_id")),
        spoken=number - 1 if isinstance(number, int) and number > 0 else None,
        id=f"openwebui-{plain_id(given['id'])}" if isinstance(given.get("id"), str) and given["id"].strip() else None,
        user=_name(given.get("user_id")),
    )


def _sign(rating: Any) -> int | None:
    number = rating_of(rating)
    return int(number) if number in (1, -1) else None


def _comment(text: Any) -> str | None:
    return text if isinstance(text, str) and text.strip() else None


def _name(value: Any) -> str | None:
    return plain_id(value) if isinstance(value, str) else None


def find_exchange(store: Store, key: str, rating: Rating) -> dict[str, Any] | None:
    """Return the exchange whose answer is rated, None if there is none that this key has a part in."""
    table = EXCHANGES.c
    with store.engine.begin() as connection:
        query = select(EXCHANGES).where(table.key == key)
        if rating.exchange:
            found = connection.execute(query.where(table.id == rating.exchange)).mappings().first()
            return dict(found) if found else None
        if rating.message_id:
            by_message = query.where(table.message_id == rating.message_id).order_by(table.started_at.desc())
            found = connection.execute(by_message).mappings().first()
            if found:
                return dict(found)
        if not rating.conversation:
            return None
        names = [conversation_of(rating.conversation)]
        if rating.user is not None:
            names.append(own_id(connection, names[0], key, rating.user))
        rows = [row for found in read_exchanges(connection, names).values() for row in found if row["key"] == key]
    return _at(rows, rating)


def _at(rows: list[dict[str, Any]], rating: Rating) -> dict[str, Any] | None:
    """Return the exchange that gave a message of the conversation's newest path; without an index, its last answer.

    If the rating has the answer's text and that message has another, it is one of another path which has this text.
    """
    found = paths(rows)
    if not found:
        return None
    row = _on(found[0], rating)
    if rating.text is None:
        return row
    said = message_hash({"role": "assistant", "content": rating.text})
    others = [_on(path, rating) for path in found[1:]]
    same = [one for one in (row, *others, *reversed(rows)) if one is not None and one["said"] == said]
    return dict(same[0]) if same else row


def _on(path: Path, rating: Rating) -> dict[str, Any] | None:
    said = list(path.messages())
    if rating.spoken is not None:
        said = [(message, row) for message, row in said if message.get("role") not in ("system", "developer")]
    index = rating.spoken if rating.spoken is not None else rating.message
    if index is None:
        index = max((at for at, (_, row) in enumerate(said) if row), default=-1)
    row = said[index][1] if 0 <= index < len(said) else None
    return dict(row) if row is not None else None
