"""Requests exported from Helicone: the bodies of the request and of its response."""

from typing import Any

from sdpo.data.conversation import Conversation, Dropped
from sdpo.data.forms import Form
from sdpo.data.messages import first, id_of, rating_of
from sdpo.data.shapes import logged_call, value_of

_REQUEST, _RESPONSE = ("request_body", "requestBody"), ("response_body", "responseBody")


def _matches(row: dict) -> bool:
    return any(isinstance(value_of(row.get(name)), dict) for name in _REQUEST)


def _read(row: dict, name: str) -> Conversation | Dropped:
    request, response = first(row, _REQUEST), first(row, _RESPONSE)
    rating = _rating(row)
    rated: dict[str, Any] = {**row, "id": id_of(row, "request_id", "requestId", "id") or name}
    rated.pop("conversation_id", None)
    return logged_call(rated if rating is None else {**rated, "rating": rating}, name, request, response)


def _rating(row: dict) -> float | None:
    for field in ("feedback_rating", "request_feedback", "helicone-rating"):
        if row.get(field) is not None:
            return rating_of(row[field])
    scores = row.get("scores")
    value = scores.get("helicone-score-feedback") if isinstance(scores, dict) else None
    rating = rating_of(value.get("value") if isinstance(value, dict) else value)
    return -1.0 if rating == 0 else rating


FORM = Form("Helicone export", _matches, _read)
