"""The logs of LiteLLM's proxy: `messages` or the request as the proxy got it, and the response."""

from sdpo.data.conversation import Conversation, Dropped
from sdpo.data.forms import Form
from sdpo.data.messages import id_of
from sdpo.data.shapes import is_request, logged_call, value_of


def _matches(row: dict) -> bool:
    marks = ("call_type", "proxy_server_request", "litellm_call_id", "litellm_params", "model_group")
    return any(mark in row for mark in marks) and ("messages" in row or "proxy_server_request" in row)


def _read(row: dict, name: str) -> Conversation | Dropped:
    request = value_of(row.get("messages"))
    if not is_request(request):
        request = value_of(row.get("proxy_server_request"))
        request = request.get("body", request) if isinstance(request, dict) else request
    named = {**row, "id": id_of(row, "request_id", "id", "litellm_call_id") or name}
    return logged_call(named, name, request, row.get("response"))


FORM = Form("LiteLLM log", _matches, _read)
