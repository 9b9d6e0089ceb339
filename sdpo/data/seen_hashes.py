"""A set of 64-bit hashes on disk, for finding duplicates in memory that does not grow with the data."""

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


class SeenHashes:
    """Signed 64-bit integers in a temporary SQLite database, which is deleted however the process ends."""

    def __init__(self) -> None:
        # SQLite keeps a page cache of 2 MB by default; everything else is on disk.
        self._database = sqlite3.connect("", isolation_level=None)
        for statement in ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF",
                          "CREATE TABLE hashes (hash INTEGER PRIMARY KEY)", "BEGIN"):  # fmt: skip
            self._database.execute(statement)

    def __contains__(self, value: int) -> bool:
        with full_disk_as_os_error():
            return self._database.execute("SELECT 1 FROM hashes WHERE hash = ?", (value,)).fetchone() is not None

    def add(self, value: int) -> bool:
        """Add a hash and return whether it is new. Raises OSError if the disk is full."""
        with full_disk_as_os_error():
            return self._database.execute("INSERT OR IGNORE INTO hashes VALUES (?)", (value,)).rowcount == 1


@contextmanager
def full_disk_as_os_error() -> Iterator[None]:
    """Turn SQLite's error for a full disk into an OSError."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), tempfile.gettempdir()) from None
