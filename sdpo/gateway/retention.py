"""Removes conversations: those of a user who wants to be forgotten, and what is older than the retention allows."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select, update

from sdpo.gateway.schema import CONVERSATIONS, EXCHANGES, PIECES, RATINGS, USES
from sdpo.gateway.store import Store

_AT_ONCE = 500


@dataclass(frozen=True)
class Forgotten:
    """What was removed: ids of conversations, the number of exchanges, and the runs that had learned from them."""

    conversations: list[str]
    exchanges: int
    runs: list[str]


def find(store: Store, user: str) -> Forgotten:
    """Return what `forget` would remove, and remove nothing."""
    with store.engine.begin() as connection:
        return _found(connection, user)[0]


def forget(store: Store, user: str) -> Forgotten:
    """Remove all of a user's rows, in all conversations and under all keys."""
    with store.writing.begin() as connection:
        found, exchanges = _found(connection, user)
        _remove(connection, exchanges)
        _remove_empty(connection, found.conversations)
    _compact(store)
    return found


def _found(connection: Connection, user: str) -> tuple[Forgotten, list[str]]:
    """Return what there is of a user, and the ids of the exchanges."""
    query = select(EXCHANGES.c.id, EXCHANGES.c.conversation).where(EXCHANGES.c.user == user)
    rows = connection.execute(query).all()
    own = connection.execute(select(CONVERSATIONS.c.id).where(CONVERSATIONS.c.user == user)).scalars()
    names = sorted({*own, *(row.conversation for row in rows)})
    runs: dict[str, None] = {}
    for part in _parts(names):
        used = select(USES.c.run).where(USES.c.conversation.in_(part)).order_by(USES.c.used_at)
        runs |= dict.fromkeys(connection.execute(used).scalars())
    return Forgotten(names, len(rows), list(runs)), [row.id for row in rows]


def purge(store: Store, days: float) -> int:
    """Remove the exchanges that are older than this many days, and return how many they were.

    What is younger in the same conversation stays, without its beginning.
    """
    limit, total = time.time() - days * 86_400, 0
    while True:
        with store.writing.begin() as connection:
            query = select(EXCHANGES.c.id, EXCHANGES.c.conversation).where(EXCHANGES.c.started_at < limit)
            rows = connection.execute(query.limit(_AT_ONCE)).all()
            _remove(connection, [row.id for row in rows])
            _remove_empty(connection, sorted({row.conversation for row in rows}))
        total += len(rows)
        if len(rows) < _AT_ONCE:
            break
    if total:
        _compact(store)
    return total


def _remove(connection: Connection, exchanges: Sequence[str]) -> None:
    for part in _parts(exchanges):
        connection.execute(delete(PIECES).where(PIECES.c.exchange.in_(part)))
        connection.execute(delete(RATINGS).where(RATINGS.c.exchange.in_(part)))
        connection.execute(delete(EXCHANGES).where(EXCHANGES.c.id.in_(part)))
        connection.execute(update(EXCHANGES).where(EXCHANGES.c.parent.in_(part)).values(parent=None))


def _remove_empty(connection: Connection, conversations: Sequence[str]) -> None:
    """Remove those of these conversations that have no exchange left."""
    for part in _parts(conversations):
        query = select(EXCHANGES.c.conversation).where(EXCHANGES.c.conversation.in_(part)).distinct()
        empty = sorted(set(part) - set(connection.execute(query).scalars()))
        connection.execute(delete(CONVERSATIONS).where(CONVERSATIONS.c.id.in_(empty)))
        connection.execute(delete(USES).where(USES.c.conversation.in_(empty)))
        connection.execute(delete(RATINGS).where(RATINGS.c.conversation.in_(empty)))


def _compact(store: Store) -> None:
    """Let SQLite overwrite what its log still holds of removed rows."""
    if store.path is not None:
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")


def _parts(names: Sequence[str]) -> list[Sequence[str]]:
    return [names[start : start + _AT_ONCE] for start in range(0, len(names), _AT_ONCE)]
