"""Requests to Gemini's interface (`contents`), with or without the response, and prompts kept by Google AI Studio."""

from typing import Any

from sdpo.data.conversation import Conversation, Dropped, SourceMessage
from sdpo.data.forms import Form
from sdpo.data.messages import nonempty_text, read_message, system_text
from sdpo.data.shapes import answer_messages, conversation


def _matches(row: dict) -> bool:
    return isinstance(row.get("contents"), list) or _chunks(row) is not None


def _chunks(row: dict) -> list | None:
    prompt = row.get("chunkedPrompt")
    chunks = prompt.get("chunks") if isinstance(prompt, dict) else None
    return chunks if isinstance(chunks, list) else None


def _read(row: dict, name: str) -> Conversation | Dropped:
    chunks = _chunks(row)
    given = row["contents"] if chunks is None else [_content(chunk) for chunk in chunks]
    messages: list[SourceMessage] = system_text(row)
    for one in given:
        read = read_message({"role": "user", **one} if isinstance(one, dict) else one)
        if isinstance(read, Dropped):
            return read
        messages += read
    messages += answer_messages(
        row.get("response") or ({"candidates": row["candidates"]} if row.get("candidates") else None)
    )
    settings = row.get("runSettings")
    model = nonempty_text(settings.get("model")) if isinstance(settings, dict) else None
    return conversation(row, name, messages, model)


def _content(chunk: Any) -> Any:
    """Return a chunk as one of the interface's contents."""
    if not isinstance(chunk, dict):
        return chunk
    if chunk.get("errorMessage") and not chunk.get("text"):
        return {"role": chunk.get("role"), "parts": []}
    text = isinstance(chunk.get("text"), str)
    part = {"text": chunk["text"], "thought": chunk.get("isThought") is True} if text else {"file": True}
    return {"role": chunk.get("role"), "parts": [part], "finishReason": chunk.get("finishReason")}


FORM = Form("Gemini contents", _matches, _read)
