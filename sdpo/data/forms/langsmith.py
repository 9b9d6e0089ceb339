"""Runs exported from LangSmith: `inputs` hold the request, `outputs` the answer, as LangChain serialises messages."""

from typing import Any

from sdpo.data.conversation import Conversation, Dropped
from sdpo.data.forms import Form
from sdpo.data.messages import rating_of
from sdpo.data.shapes import is_request, logged_call, value_of


def _matches(row: dict) -> bool:
    inputs = value_of(row.get("inputs"))
    return "outputs" in row and isinstance(inputs, dict) and (is_request(inputs) or "run_type" in row)


def _read(row: dict, name: str) -> Conversation | Dropped:
    if row.get("run_type") in ("tool", "retriever", "embedding", "parser"):
        return Dropped("a run that is no conversation")
    inputs = value_of(row["inputs"])
    rating = _rating(row.get("feedback_stats"))
    rated = {**row, "rating": rating} if rating is not None else row
    return logged_call(rated, name, inputs, row.get("outputs"))


def _rating(stats: Any) -> float | None:
    """Return the mean score that users gave, by its name; 0 is a thumb down."""
    for label, score in stats.items() if isinstance(stats, dict) else ():
        if any(word in str(label).lower() for word in ("user", "feedback", "thumb", "rating")):
            rating = rating_of(score.get("avg") if isinstance(score, dict) else score)
            return -1.0 if rating == 0 else rating
    return None


FORM = Form("LangSmith export", _matches, _read)
