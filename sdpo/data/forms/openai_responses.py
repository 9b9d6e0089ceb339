"""OpenAI's Responses: an `input` and an `output`, or only what is new since the response that it names."""

from collections.abc import Iterator
from typing import Any

from sdpo.data.conversation import Conversation, Dropped, SourceMessage
from sdpo.data.forms import Form, Piece
from sdpo.data.messages import id_of, nonempty_text, system_text
from sdpo.data.shapes import BROKEN, branch, request_messages, response_items, value_of
from sdpo.data.times import time_of


def _matches(row: dict) -> bool:
    request, response = _parts(row)
    return response.get("object") == "response" or ("previous_response_id" in request and "input" in request)


def _parts(row: dict) -> tuple[dict, dict]:
    """Return the request and the response, which are one object or two."""
    request, response = value_of(row.get("request")), value_of(row.get("response"))
    request = request.get("body", request) if isinstance(request, dict) else row
    response = response.get("body", response) if isinstance(response, dict) else row
    return (request if isinstance(request, dict) else {}), (response if isinstance(response, dict) else {})


def _read(row: dict, name: str) -> Piece | Dropped:
    request, response = _parts(row)
    if not request.get("input"):
        return Dropped("an answer whose question is not logged")
    question = request_messages(request["input"])
    if isinstance(question, Dropped):
        return question
    answer = response_items(response["output"]) if isinstance(response.get("output"), list) else []
    if isinstance(answer, Dropped):
        return answer
    previous = request.get("previous_response_id") or response.get("previous_response_id")
    value: dict[str, Any] = {
        "id": id_of(response, "id") or name, "previous": previous if isinstance(previous, str) else None,
        "system": [list(one) for one in system_text(request)],
        "messages": [list(one) for one in (*question, *answer)],
        "model": nonempty_text(request.get("model")) or nonempty_text(response.get("model")),
        "time": time_of(response.get("created_at")),
    }  # fmt: skip
    return Piece("responses", value)  # which of them form a conversation is known when all are read


def _join(pieces: list[Piece]) -> Iterator[Conversation | Dropped]:
    """Yield the conversation that ends with each response that no other one continues."""
    by_id = {piece.value["id"]: piece.value for piece in pieces}
    if len(by_id) != len(pieces):
        yield from [Dropped("an id that another response has")] * (len(pieces) - len(by_id))
    parents = {key: value["previous"] for key, value in by_id.items()}
    continued = {parent for parent in parents.values() if parent is not None}
    counted: set[str] = set()
    for leaf in by_id:
        names = branch(parents, leaf) if leaf not in continued else BROKEN
        if isinstance(names, Dropped):
            continue
        messages: list[SourceMessage] = []
        system: list = []
        for key in names:
            if by_id[key]["system"] != system:
                system = by_id[key]["system"]
                messages += [SourceMessage(*one) for one in system]
            messages += [SourceMessage(*one) for one in by_id[key]["messages"]]
        new = [key for key in names if key not in counted]
        counted.update(new)
        end = by_id[leaf]
        yield Conversation(leaf, messages, end["model"], by_id[names[0]]["time"], rows=len(new))
    yield from [BROKEN] * (len(by_id) - len(counted))


FORM = Form("OpenAI Responses", _matches, _read, _join)
