"""The files of OpenAI's batches: a request per line, and in another file an answer per line."""

from sdpo.data.conversation import Conversation, Dropped
from sdpo.data.forms import Form
from sdpo.data.messages import id_of
from sdpo.data.shapes import logged_call


def _matches(row: dict) -> bool:
    request = isinstance(row.get("body"), dict) and "url" in row
    response = row.get("response")
    return "custom_id" in row and (request or (isinstance(response, dict) and "body" in response))


def _read(row: dict, name: str) -> Conversation | Dropped:
    if not isinstance(row.get("body"), dict):
        return Dropped("an answer whose question is in another file")
    return logged_call({"id": id_of(row, "custom_id") or name}, name, row["body"], None)


FORM = Form("OpenAI batch", _matches, _read)
