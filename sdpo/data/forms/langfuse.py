"""Observations and traces exported from Langfuse: `input` is a request, `output` the answer."""

from typing import Any

from sdpo.data.conversation import Conversation, Dropped
from sdpo.data.forms import Form
from sdpo.data.messages import rating_of
from sdpo.data.shapes import is_request, logged_call, value_of


def _matches(row: dict) -> bool:
    return _call(row) is not None


def _call(row: dict) -> dict | None:
    """Return the row, or the last of a trace's observations, whose input is a request."""
    if row.get("object") == "response" or "previous_response_id" in row:
        return None
    if "output" in row and is_request(value_of(row.get("input"))):
        return row
    observations = row.get("observations")
    for one in reversed(observations if isinstance(observations, list) else []):
        if isinstance(one, dict) and is_request(value_of(one.get("input"))):
            return one
    return None


def _read(row: dict, name: str) -> Conversation | Dropped:
    call = _call(row) or row
    rating = _rating(row.get("scores")) if row.get("scores") else _rating(call.get("scores"))
    rated = {**call, "rating": rating} if rating is not None else call
    return logged_call(rated, name, call.get("input"), call.get("output"))


def _rating(scores: Any) -> float | None:
    """Return the score that the user gave, by its name."""
    for score in scores if isinstance(scores, list) else []:
        label = str(score.get("name")).lower() if isinstance(score, dict) else ""
        if any(word in label for word in ("user", "feedback", "thumb", "rating")):
            value, word = score.get("value"), score.get("stringValue")
            # The number beside a word is 0 unless the words were given numbers.
            by_word = word is not None and (value is None or score.get("dataType") == "CATEGORICAL")
            rating = rating_of(word if by_word else value)
            return -1.0 if rating == 0 else rating  # its thumbs are 1 and 0
    return None


FORM = Form("Langfuse export", _matches, _read)
