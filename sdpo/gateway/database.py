"""Opens the database of a store: SQLite in WAL mode, or PostgreSQL."""

import os
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError

from sdpo.errors import SettingError, pip_install

BEGIN_WRITING = "BEGIN IMMEDIATE"  # SQLite: waits for another who writes
_BUSY_SECONDS = 30
_CONNECTIONS = 12  # that stay open, of which the threads that read and the one that writes each need one


def open_engine(url: str, create: bool = True) -> Engine:
    """Return an engine for the store's address. Raises SettingError for an address that cannot be used.

    Without `create` a SQLite file that does not exist is an error too.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed, create)
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise SettingError(
            f"STORE_URL={shown(url)} needs psycopg, which is not installed. Install it: "
            f"{pip_install('sdpo[postgres]')}."
        ) from None
    return create_engine(parsed.set(drivername="postgresql+psycopg"), pool_size=8, max_overflow=8, pool_pre_ping=True)


def shown(url: str) -> str:
    """Return the store's address without passwords, which may be in its query too."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return "(not shown)" if "@" in url or "pass" in url.lower() else url
    secrets = [name for name in parsed.query if "pass" in name.lower()]
    return parsed.difference_update_query(secrets).render_as_string(hide_password=True)


def sqlite_path(url: str) -> Path | None:
    """Return the file of a SQLite store, None for another database. Raises SettingError for an unusable address."""
    parsed = _parsed(url)
    return Path(str(parsed.database)) if parsed.get_backend_name() == "sqlite" else None


def writing(engine: Engine) -> Engine:
    """Return the engine for transactions that write: on SQLite they wait for each other before they begin."""
    return engine.execution_options(sdpo_writes=True)


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("sqlite", "postgresql") or not parsed.database:
        raise SettingError(
            f"STORE_URL={shown(url)} is neither a SQLite file (sqlite:///runs/store.sqlite) nor a PostgreSQL database "
            "(postgresql+psycopg://user@host/name)."
        )
    if parsed.get_backend_name() == "sqlite":
        return parsed.set(database=str(Path(parsed.database).expanduser()))
    return parsed


def _sqlite(parsed: URL, create: bool) -> Engine:
    path = Path(str(parsed.database))
    if not path.exists():
        if not create:
            raise SettingError(f"the store {path} does not exist. Start the gateway first, or set another STORE_URL.")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # conversations are for their owner's eyes only
        except OSError as error:
            raise SettingError(
                f"the store {path} cannot be created: {error.strerror}. Choose another STORE_URL."
            ) from None
    engine = create_engine(
        parsed, pool_size=_CONNECTIONS, connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False}
    )

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, record: object) -> None:
        connection.isolation_level = None  # transactions begin below, so that tables are created in them too
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            # A commit is in the operating system's hands when it returns, which a killed process cannot undo. A power
            # failure may undo the last seconds; FULL would wait for the disk at each commit.
            "synchronous=NORMAL",
            "secure_delete=ON",  # what is forgotten is overwritten
            "foreign_keys=OFF",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("sdpo_writes")
        connection.exec_driver_sql(BEGIN_WRITING if writes else "BEGIN")

    return engine
