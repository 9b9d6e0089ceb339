"""An answer of an upstream as it arrives: the texts of a stream's deltas, and the messages they amount to."""

import json
import re
from typing import Any

# A channel is one text that grows: `content`, `call.0.arguments`; of a choice beside the first `choice.1/content`.
_TEXTS = ("content", "reasoning_content", "reasoning", "refusal", "role")
_CALL = re.compile(r"call\.(\d+)\.(id|type|name|arguments)")
_CHOICE = re.compile(r"choice\.(\d+)/(.*)", re.DOTALL)


class Answer:
    """Collects a chat completion from its stream: `channels` are its texts so far."""

    def __init__(self) -> None:
        self.channels: dict[str, str] = {}
        self.finish_reason: str | None = None
        self.usage: dict[str, Any] | None = None
        self.model: str | None = None
        self.done = False  # the stream said that it ended

    def add(self, chunk: Any) -> set[str]:
        """Add a chunk of the stream and return the channels that it changed. What is no chunk is ignored."""
        changed: set[str] = set()
        if not isinstance(chunk, dict):
            return changed
        if isinstance(chunk.get("usage"), dict):
            self.usage = chunk["usage"]
        if isinstance(chunk.get("model"), str):
            self.model = chunk["model"]
        for choice in _dicts(chunk.get("choices")):
            number = choice.get("index") if isinstance(choice.get("index"), int) else 0
            if number == 0 and isinstance(choice.get("finish_reason"), str):
                self.finish_reason = choice["finish_reason"]
            delta = choice.get("delta")
            if isinstance(delta, dict):
                self._delta(f"choice.{number}/" if number else "", delta, changed)
        return changed

    def _delta(self, prefix: str, delta: dict[str, Any], changed: set[str]) -> None:
        for name in _TEXTS:
            self._grow(f"{prefix}{name}", delta.get(name), changed, once=name == "role")
        for place, call in enumerate(_dicts(delta.get("tool_calls"))):
            at = call["index"] if isinstance(call.get("index"), int) else place
            given = call.get("function")
            function = given if isinstance(given, dict) else {}
            for name, value in (("id", call.get("id")), ("type", call.get("type"))):
                self._grow(f"{prefix}call.{at}.{name}", value, changed, once=True)
            for name in ("name", "arguments"):
                self._grow(f"{prefix}call.{at}.{name}", function.get(name), changed)

    def _grow(self, channel: str, text: Any, changed: set[str], once: bool = False) -> None:
        if isinstance(text, str) and text and not (once and channel in self.channels):
            self.channels[channel] = self.channels.get(channel, "") + text
            changed.add(channel)

    def messages(self) -> list[dict[str, Any]]:
        """Return the messages of the choices, the first choice's first."""
        return messages_of(self.channels)


def messages_of(channels: dict[str, str]) -> list[dict[str, Any]]:
    """Return the messages that channels amount to, in OpenAI's form, in the order of the choices."""
    choices: dict[int, dict[str, str]] = {}
    for channel, text in channels.items():
        match = _CHOICE.fullmatch(channel)
        number, name = (int(match[1]), match[2]) if match else (0, channel)
        choices.setdefault(number, {})[name] = text
    return [_message(choices[number]) for number in sorted(choices)]


def _message(texts: dict[str, str]) -> dict[str, Any]:
    calls: dict[int, dict[str, Any]] = {}
    message: dict[str, Any] = {"role": texts.get("role", "assistant"), "content": texts.get("content")}
    for name, text in texts.items():
        match = _CALL.fullmatch(name)
        if match is None:
            message[name] = text
            continue
        call = calls.setdefault(
            int(match[1]), {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        part = call if match[2] in ("id", "type") else call["function"]
        part[match[2]] = text
    if calls:
        message["tool_calls"] = [calls[number] for number in sorted(calls)]
    elif message["content"] is None:
        message["content"] = ""
    return message


def whole_answer(body: Any) -> tuple[list[dict[str, Any]], str | None, dict[str, Any] | None]:
    """Return the messages of a completion that came in one piece, its finish reason and its usage.

    What is no completion has no messages.
    """
    if not isinstance(body, dict):
        return [], None, None
    choices = [choice for choice in _dicts(body.get("choices")) if isinstance(choice.get("message"), dict)]
    choices.sort(key=lambda choice: choice["index"] if isinstance(choice.get("index"), int) else 0)
    reason = choices[0].get("finish_reason") if choices else None
    usage = body.get("usage")
    messages = [{"role": "assistant", **choice["message"]} for choice in choices]
    return messages, reason if isinstance(reason, str) else None, usage if isinstance(usage, dict) else None


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


class EventStream:
    """Reads server-sent events with JSON from bytes as they come, split anywhere."""

    DONE = object()  # the event that ends a stream

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    @property
    def inside(self) -> bool:
        """Whether the bytes so far end inside an event."""
        return bool(self._rest or self._data)

    def feed(self, block: bytes) -> list[Any]:
        """Return what the events that this block completes hold; what is no JSON is left out.

        Data that is whole JSON counts as soon as its line ends: a client may read it before the blank line comes.
        """
        *lines, self._rest = re.split(rb"\r\n|\n|\r(?!\n|\Z)", self._rest + block)
        return [value for line in lines for value in self._line(line)]

    def close(self) -> list[Any]:
        """Return what an event holds that the stream ended in."""
        rest, self._rest = self._rest.rstrip(b"\r"), b""
        return self._line(rest)

    def _line(self, line: bytes) -> list[Any]:
        if not line:
            self._data = []
        if not line.startswith(b"data:"):
            return []
        self._data.append(line[5:].removeprefix(b" "))
        data = b"\n".join(self._data)
        if data.strip() == b"[DONE]":
            self._data = []
            return [self.DONE]
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return []
        self._data = []
        return [value]
