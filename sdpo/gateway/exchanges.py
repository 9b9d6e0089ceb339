"""An exchange on its way into the store: what of a request is new, and the rows that its answer amounts to."""

import hashlib
import json
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from sdpo.data.private_values import Span, private_spans
from sdpo.data.redact import ConversationRedactor, Redactor
from sdpo.gateway.history import SYSTEM_ROLES, Message, chained, hashes, map_texts, message_hash, split_system

OPEN, COMPLETE, BROKEN = "open", "complete", "broken off"
_REMEMBERED = 20_000  # characters of the longest text whose private values are remembered
_OF_NO_USE = re.compile(r"[^A-Za-z0-9_.:@+-]")
_LENGTH = 200


def new_id(kind: str) -> str:
    """Return a new id. Ids of one kind sort by time."""
    return f"{kind}-{int(time.time() * 1000):012x}{secrets.token_hex(8)}"


def plain_id(given: str | None) -> str | None:
    """Return a client's name for something so that it can be an id here, None if it gave none."""
    name = _OF_NO_USE.sub("_", (given or "").strip())[:_LENGTH]
    return name or None


def plain_text(given: object, length: int = _LENGTH) -> str:
    """Return a client's or an upstream's word as a text that every database can hold."""
    return "".join(char for char in str(given or "") if char.isprintable()).strip()[:length]


def id_beside(name: str, key: str, user: str) -> str:
    """Return the id of a conversation whose name another user's conversation has already."""
    return f"{name}-{hashlib.sha256(f'{key}/{user}'.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"


@lru_cache(maxsize=4096)
def _remembered_spans(text: str) -> tuple[Span, ...]:
    return tuple(private_spans(text))


def _spans(text: str) -> Sequence[Span]:
    """Return the private values of a text; a conversation so far is in each of its requests, so they are remembered."""
    return _remembered_spans(text) if len(text) <= _REMEMBERED else private_spans(text)


@dataclass
class Request:
    """The messages of a request as they are kept: redacted, system messages apart, with their hashes."""

    system: list[Message]
    messages: list[Message]
    hashes: list[str]
    redact: ConversationRedactor

    @property
    def system_hash(self) -> str:
        """The hash of the system messages, an empty text if there are none."""
        return hashes(self.system)[-1] if self.system else ""

    @property
    def asked(self) -> str:
        """The hash of all messages."""
        return self.hashes[-1] if self.hashes else ""


def read_request(messages: Iterable[Any], redactor: Redactor) -> Request:
    """Return what is kept of a request's messages. What is no message is left out."""
    given = [message for message in messages if isinstance(message, dict)]
    texts: list[str] = []

    def note(text: str) -> str:
        texts.append(text)
        return text

    for message in given:
        map_texts(message, note)
    redact = redactor.for_conversation(texts, _spans)
    system, others = split_system(map_texts(message, redact) for message in given)
    return Request(system, others, hashes(others), redact)


@dataclass
class Exchange:
    """A request with its place in the store. `new` are its messages that the store does not have yet."""

    conversation: str
    key: str
    user: str
    request: Request
    parent: str | None = None
    new: list[Message] = field(default_factory=list)
    same_system: bool = False
    gateway: str = ""
    request_id: str = ""
    message_id: str | None = None
    model: str = ""
    version: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    id: str = field(default_factory=lambda: new_id("x"))
    started_at: float = field(default_factory=time.time)

    def conversation_row(self) -> dict[str, Any]:
        """Return the row of CONVERSATIONS, which may be there already."""
        return {"id": self.conversation, "key": self.key, "user": self.user, "started_at": self.started_at}

    def row(self) -> dict[str, Any]:
        """Return the row of EXCHANGES without an answer."""
        return {
            "id": self.id,
            "conversation": self.conversation,
            "parent": self.parent,
            "key": self.key,
            "user": self.user,
            "state": OPEN,
            "gateway": self.gateway,
            "started_at": self.started_at,
            "finished_at": None,
            "request_id": self.request_id,
            "message_id": self.message_id,
            "model": self.model,
            "version": self.version,
            "parameters": json.dumps(self.parameters),
            "system": None if self.same_system else json.dumps(self.request.system),
            "system_hash": self.request.system_hash,
            "messages": json.dumps(self.new),
            "answers": None,
            "finish_reason": None,
            "usage": None,
            "asked": self.request.asked,
            "answered": None,
            "said": None,
        }

    def complete_rows(
        self, answers: Sequence[Message], finish_reason: str | None, usage: dict[str, Any] | None
    ) -> dict[str, list[dict[str, Any]]]:
        """Return the rows of an exchange whose answer came in one piece, for `Writer`."""
        row = self.row() | self.answer_columns(answers, COMPLETE, finish_reason, usage)
        return {"conversations": [self.conversation_row()], "exchanges": [row]}

    def answer_columns(
        self,
        answers: Sequence[Message],
        state: str = COMPLETE,
        finish_reason: str | None = None,
        usage: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the columns of EXCHANGES that the answer fills, redacted; the answer is the first of `answers`."""
        kept = [map_texts(message, self.request.redact) for message in answers]
        return finished(kept, self.request.asked, state, finish_reason, usage)


def finished(
    answers: Sequence[Message],
    asked: str,
    state: str,
    finish_reason: str | None = None,
    usage: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the columns of EXCHANGES that an answer fills; `answers` are redacted already."""
    return {
        "state": state,
        "finished_at": time.time(),
        "answers": json.dumps(list(answers)),
        "finish_reason": plain_text(finish_reason) or None,
        "usage": json.dumps(usage) if usage else None,
        "answered": chained(asked, answers[0]) if answers else None,
        "said": message_hash(answers[0]) if answers else None,
    }


def rating_row(
    exchange: Mapping[str, Any], rating: int, comment: str | None = None, id: str | None = None
) -> dict[str, Any]:
    """Return the row of RATINGS for an exchange's row."""
    return {
        "id": id or new_id("r"),
        "exchange": exchange["id"],
        "conversation": exchange["conversation"],
        "rating": rating,
        "comment": None if comment is None else json.dumps(comment),
        "rated_at": time.time(),
    }


def conversation_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of CONVERSATIONS for rows of EXCHANGES, each conversation once."""
    found = {row["conversation"]: row for row in reversed(rows)}
    return [
        {"id": name, "key": row["key"], "user": row["user"], "started_at": row["started_at"]}
        for name, row in found.items()
    ]


def whole_conversation(
    messages: Sequence[Message],
    name: str | None,
    user: str,
    versions: Sequence[str] = (),
    started_at: float | None = None,
) -> tuple[list[dict[str, Any]], dict[int, dict[str, Any]]]:
    """Return a conversation as rows of EXCHANGES, one for each answer, and the same by the answer's index.

    Raises ValueError if there is no answer in it.
    """
    start, conversation = started_at or time.time() - 1, name or new_id("c")
    answers = [at for at, message in enumerate(messages) if message.get("role") == "assistant"]
    if not answers:
        raise ValueError("a conversation without an answer")
    request, rows, begin = read_request(messages, Redactor(False)), list[dict[str, Any]](), 0
    known = hashes(request.messages)
    for number, at in enumerate(answers):
        new = split_system(messages[begin:at])[1]
        begin = at + 1
        place = sum(message.get("role") not in SYSTEM_ROLES for message in messages[:at])
        exchange = Exchange(conversation, "", user, request, rows[-1]["id"] if rows else None, new, bool(rows))
        exchange.version = versions[number] if number < len(versions) else ""
        asked = known[place - 1] if place else ""
        row = exchange.row() | finished([map_texts(messages[at], str)], asked, COMPLETE)
        row |= {"asked": asked, "parameters": "{}"} | dict.fromkeys(
            ("started_at", "finished_at"), start + number / 1000
        )
        rows.append(row)
    return rows, dict(zip(answers, rows, strict=True))
