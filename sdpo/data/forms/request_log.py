"""Logged calls of an interface: `request` and `response`, of OpenAI, Anthropic or Gemini."""

from sdpo.data.conversation import Conversation, Dropped
from sdpo.data.forms import Form
from sdpo.data.shapes import is_request, logged_call, value_of


def _matches(row: dict) -> bool:
    request = value_of(row.get("request"))
    return "response" in row and is_request(request.get("body", request) if isinstance(request, dict) else request)


def _read(row: dict, name: str) -> Conversation | Dropped:
    request, response = value_of(row["request"]), value_of(row["response"])
    request = request.get("body", request) if isinstance(request, dict) else request
    response = response.get("body", response) if isinstance(response, dict) else response
    return logged_call(row, name, request, response)


FORM = Form("requests and responses", _matches, _read, last=True)
