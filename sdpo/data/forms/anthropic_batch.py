"""The message batches of Anthropic's interface: a request per line in `params`, an answer per line in `result`."""

from sdpo.data.conversation import Conversation, Dropped
from sdpo.data.forms import Form
from sdpo.data.messages import id_of
from sdpo.data.shapes import logged_call


def _matches(row: dict) -> bool:
    return "custom_id" in row and (isinstance(row.get("params"), dict) or isinstance(row.get("result"), dict))


def _read(row: dict, name: str) -> Conversation | Dropped:
    if not isinstance(row.get("params"), dict):
        return Dropped("an answer whose question is in another file")
    result = row.get("result")
    return logged_call({"id": id_of(row, "custom_id") or name}, name, row["params"], result)


FORM = Form("Anthropic batch", _matches, _read)
