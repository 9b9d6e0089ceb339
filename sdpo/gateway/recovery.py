"""Takes part in a store as a gateway, and completes what a gateway that was killed left open."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, delete, select, text, update

from sdpo.errors import RunError
from sdpo.gateway.conversations import with_pieces
from sdpo.gateway.exchanges import BROKEN, OPEN, finished
from sdpo.gateway.schema import EXCHANGES, PIECES
from sdpo.gateway.store import Store


@contextmanager
def taking_part(store: Store, name: str) -> Iterator[int]:
    """Hold the store as the gateway of this name while the block runs; yield how many open answers were completed.

    Raises RunError if another gateway holds a SQLite store, which only one at a time can write to for its clients.
    """
    with _held(store, name) as connection:
        yield _complete_open(store, connection)


@contextmanager
def _held(store: Store, name: str) -> Iterator[Connection | None]:
    if store.path is None:
        # The lock of the session ends with the connection, however the process ends.
        with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _lock_of(name)})
            yield connection
        return
    lock = os.open(f"{store.path}.gateway", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(
                f"another gateway uses the store {store.path}. Stop it, choose another STORE_URL, or let several share "
                "a PostgreSQL database."
            ) from None
        yield None
    finally:
        os.close(lock)


def _complete_open(store: Store, session: Connection | None) -> int:
    """Complete the answers that gateways which are gone left open, with what their clients got."""
    with store.writing.begin() as connection:
        query = select(EXCHANGES).where(EXCHANGES.c.state == OPEN)
        rows = [dict(row) for row in connection.execute(query).mappings()]
        gone = {name: session is None or _is_gone(session, name) for name in {row["gateway"] for row in rows}}
        rows = [row for row in rows if gone[row["gateway"]]]
        for row in rows:
            _complete(connection, row)
    return len(rows)


def _complete(connection: Connection, row: dict[str, Any]) -> None:
    found = connection.execute(select(PIECES).where(PIECES.c.exchange == row["id"])).mappings()
    answers = json.loads(with_pieces(row, [dict(piece) for piece in found])["answers"] or "[]")
    columns = finished(answers, row["asked"], BROKEN)
    connection.execute(update(EXCHANGES).where(EXCHANGES.c.id == row["id"]).values(columns))
    connection.execute(delete(PIECES).where(PIECES.c.exchange == row["id"]))


def _is_gone(session: Connection, name: str) -> bool:
    lock = {"lock": _lock_of(name)}
    if not session.execute(text("SELECT pg_try_advisory_lock(:lock)"), lock).scalar_one():
        return False
    session.execute(text("SELECT pg_advisory_unlock(:lock)"), lock)
    return True


def _lock_of(name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"sdpo gateway {name}".encode()).digest()[:8], "big", signed=True)
