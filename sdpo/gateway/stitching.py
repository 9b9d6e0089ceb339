"""Finds where a request goes on in the store: its conversation, and the exchange whose answer it follows."""

import hashlib
import json
import math
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from sdpo.gateway.exchanges import Request, id_beside, new_id
from sdpo.gateway.history import answer_points, message_hash
from sdpo.gateway.schema import CONVERSATIONS, EXCHANGES, OPT_OUTS
from sdpo.gateway.store import Store

_CLAIM_SECONDS = 10.0  # another request may have read the store just before the exchange was in it
_POINTS = 500  # a longer history is recognised by its last answers


@dataclass(frozen=True)
class Place:
    """Where a request goes on. `begin` is the index of its first message that is not in the store yet."""

    conversation: str
    parent: str | None = None
    begin: int = 0
    same_system: bool = False
    opted_out: bool = False


class Stitcher:
    """Finds the places of requests. What it finds is claimed until the exchange is in the store.

    Two conversations of a user may be the same up to here: each is gone on with by one of two requests at once.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._claims: dict[str, float] = {}  # exchange -> when the claim ends
        self._lock = threading.Lock()

    def release(self, place: Place) -> None:
        """End the claim on what was found, shortly after its exchange was written or given up."""
        now = time.monotonic()
        with self._lock:
            if place.parent:
                self._claims[place.parent] = now + _CLAIM_SECONDS
            for name in [name for name, until in self._claims.items() if until < now]:
                del self._claims[name]

    def find(self, request: Request, key: str, user: str, name: str | None) -> Place:
        """Return the place of a request of this key and user; `name` is the client's own id of the conversation."""
        with self._store.engine.begin() as connection:
            conversation = own_id(connection, name, key, user) if name else None
            points = answer_points(request.messages)[:_POINTS]
            marks = [opt_out_mark(key, user, digest) for digest in request.hashes[-_POINTS:]]
            if _opted_out(connection, [*([conversation] if conversation else []), *marks]):
                return Place(conversation or new_id("c"), opted_out=True)
            found = self._by_history(connection, request, points, key, user, conversation)
            if found is None and conversation:
                found = _by_last_answer(connection, request, points, conversation)
            if found is None:
                return Place(conversation or new_id("c"))
            row, at = found
            return Place(row["conversation"], row["id"], at + 1, row["system_hash"] == request.system_hash)

    def _by_history(
        self, connection: Connection, request: Request, points: Sequence[int], key: str, user: str, name: str | None
    ) -> tuple[dict[str, Any], int] | None:
        """Return the exchange that ends the longest beginning of the request that was said before, and where it ends.

        Of several that are the same, one that nobody went on with yet.
        """
        places = {request.hashes[at]: at for at in points}
        if not places:
            return None
        table = EXCHANGES.c
        query = select(EXCHANGES).where(table.answered.in_(list(places)), table.key == key, table.user == user)
        if name:
            query = query.where(table.conversation == name)
        rows = [dict(row) for row in connection.execute(query).mappings()]
        if not rows:
            return None
        longest = max(places[row["answered"]] for row in rows)
        rows = [row for row in rows if places[row["answered"]] == longest]
        followed = set[str | None]()
        if len(rows) > 1:
            query = select(table.parent).where(table.parent.in_([row["id"] for row in rows]))
            followed = set(connection.execute(query).scalars())
        with self._lock:
            followed |= set(self._claims)
            chosen = max(rows, key=lambda row: (row["id"] not in followed, row["started_at"], row["id"]))
            self._claims[chosen["id"]] = math.inf
        return chosen, longest


def opt_out_mark(key: str, user: str, asked: str) -> str:
    """Return the mark of a user's request that is not to be kept, and so is nothing that begins with its messages."""
    return hashlib.sha256(json.dumps([key, user, asked]).encode()).hexdigest()


def _by_last_answer(
    connection: Connection, request: Request, points: Sequence[int], name: str
) -> tuple[dict[str, Any], int] | None:
    """Return the exchange of a conversation that gave the request's last answer: its client left old messages out."""
    if not points:
        return None
    table = EXCHANGES.c
    said = message_hash(request.messages[points[0]])
    query = select(EXCHANGES).where(table.conversation == name, table.said == said)
    row = connection.execute(query.order_by(table.started_at.desc()).limit(1)).mappings().first()
    return (dict(row), points[0]) if row else None


def own_id(connection: Connection, name: str, key: str, user: str) -> str:
    """Return the id of a client's conversation: its name for it, unless another user's conversation has that."""
    query = select(CONVERSATIONS.c.key, CONVERSATIONS.c.user).where(CONVERSATIONS.c.id == name)
    owner = connection.execute(query).first()
    return name if owner is None or tuple(owner) == (key, user) else id_beside(name, key, user)


def _opted_out(connection: Connection, marks: Collection[str]) -> bool:
    query = select(OPT_OUTS.c.mark).where(OPT_OUTS.c.mark.in_(list(marks))).limit(1)
    return bool(marks) and connection.execute(query).first() is not None
