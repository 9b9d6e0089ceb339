"""Statements that are compiled once and given to the database's driver itself.

For what each answer waits for: through SQLAlchemy's execution a small transaction is three times the work.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Executable, PoolProxiedConnection
from sqlalchemy.exc import OperationalError

from sdpo.gateway.database import BEGIN_WRITING


@dataclass(frozen=True)
class Statement:
    """A statement in the driver's own words. `order` names its parameters by position, None if they go by name."""

    sql: str
    order: tuple[str, ...] | None

    def execute(self, cursor: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        """Execute it once for each row."""
        values = rows if self.order is None else [tuple(row[name] for name in self.order) for row in rows]
        cursor.executemany(self.sql, values)


class DirectConnection:
    """A connection that is kept, for one thread, and opened again after an error of the database."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: PoolProxiedConnection | None = None
        driver = engine.dialect.loaded_dbapi
        # The database does not answer, or not on this connection: it may do so later.
        self.unavailable: tuple[type[Exception], ...] = (OperationalError, driver.OperationalError)
        self.unavailable += (driver.InterfaceError,)

    def compile(self, statement: Executable) -> Statement:
        """Return a statement of SQLAlchemy's in the driver's words."""
        compiled = statement.compile(self._engine)  # type: ignore[attr-defined]
        return Statement(str(compiled), tuple(compiled.positiontup) if compiled.positional else None)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """Yield a cursor; what it wrote is committed at the end of the block, or rolled back if the block raises."""
        if self._connection is None:
            self._connection = self._engine.raw_connection()
        connection = self._connection
        try:
            cursor = connection.cursor()
            if self._engine.dialect.name == "sqlite":  # PostgreSQL's driver begins by itself
                cursor.execute(BEGIN_WRITING)
            yield cursor
            connection.commit()
            cursor.close()
        except BaseException as error:
            with suppress(Exception):
                connection.rollback()
            if isinstance(error, self.unavailable):
                self.close(broken=True)
            raise

    def close(self, broken: bool = False) -> None:
        """Give the connection back; a broken one is closed."""
        connection, self._connection = self._connection, None
        if connection is not None and broken:
            connection.invalidate()
        elif connection is not None:
            connection.close()
