"""A list of `messages`, as in requests to OpenAI's and Anthropic's interfaces and in data sets for fine-tuning."""

from sdpo.data.conversation import Conversation, Dropped
from sdpo.data.forms import Form
from sdpo.data.messages import nonempty_text, read_messages, system_text
from sdpo.data.shapes import answer_messages, conversation


def _matches(row: dict) -> bool:
    return "messages" in row


def _read(row: dict, name: str) -> Conversation | Dropped:
    messages = read_messages(row.get("messages"))
    if isinstance(messages, Dropped):
        return messages
    if messages[-1].role == "user":
        messages = messages + next(
            (answer for field in ("response", "completion", "choices") if (answer := _answer(row, field))), []
        )
    return conversation(row, name, system_text(row) + messages, nonempty_text(row.get("model")))


def _answer(row: dict, field: str) -> list:
    value = row.get(field)
    return answer_messages(row if field == "choices" and isinstance(value, list) else value) if value else []


FORM = Form("OpenAI messages", _matches, _read, last=True)
