"""A set of 64-bit marks that is kept on disk: what was seen before is known without memory that grows with it."""

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


class SeenHashes:
    """Whole numbers of 64 bits, in a temporary database without a name: nothing is left of it however we end."""

    def __init__(self) -> None:
        # A page cache of 2 MB is the default; the rest goes to the disk.
        self._database = sqlite3.connect("", isolation_level=None)
        for line in ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF",
                     "CREATE TABLE marks (mark INTEGER PRIMARY KEY)", "BEGIN"):  # fmt: skip
            self._database.execute(line)

    def __contains__(self, mark: int) -> bool:
        with _full_disk():
            return self._database.execute("SELECT 1 FROM marks WHERE mark = ?", (mark,)).fetchone() is not None

    def add(self, mark: int) -> bool:
        """Add a mark and return whether it is new. Raises OSError where the disk is full."""
        with _full_disk():
            return self._database.execute("INSERT OR IGNORE INTO marks VALUES (?)", (mark,)).rowcount == 1


@contextmanager
def _full_disk() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), tempfile.gettempdir()) from None
