"""Brings the tables of a store to this code's version, and refuses a store of a newer one."""

from collections.abc import Callable, Mapping

from sqlalchemy import Connection, insert, inspect, select, text, update

from sdpo.errors import RunError
from sdpo.gateway.schema import EXCHANGES, METADATA, SCHEMA


def _system_hash(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE exchanges ADD COLUMN system_hash TEXT"))


def _indexes(connection: Connection) -> None:
    for name in ("exchanges_user", "exchanges_answered"):
        connection.execute(text(f"DROP INDEX IF EXISTS {name}"))
    for index in EXCHANGES.indexes:
        index.create(connection, checkfirst=True)


# What each version changes in a store of the version before it. A new store gets the tables of `schema.py` as they are.
MIGRATIONS: Mapping[int, Callable[[Connection], None]] = {2: _system_hash, 3: _indexes}
VERSION = 3
_LOCK = 7_302_118_440  # any number, the same in every process


def migrate(connection: Connection, shown: str) -> None:
    """Create the tables or bring them to `VERSION`, in the connection's transaction.

    Raises RunError for a store of a newer version; `shown` is its address for the message.
    """
    if connection.dialect.name == "postgresql":  # SQLite's transaction is already the only one that writes
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    if not inspect(connection).has_table(SCHEMA.name):
        METADATA.create_all(connection)
        connection.execute(insert(SCHEMA).values(version=VERSION))
        return
    found = connection.execute(select(SCHEMA.c.version)).scalar_one()
    if found > VERSION:
        raise RunError(
            f"the store {shown} has version {found}, and this code knows versions up to {VERSION}. Update the code, or "
            "choose another STORE_URL."
        )
    for version in range(found + 1, VERSION + 1):
        MIGRATIONS[version](connection)
        connection.execute(update(SCHEMA).values(version=version))
