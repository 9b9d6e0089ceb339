"""The live pointer as the gateway reads it."""

import os
import sys
from pathlib import Path

from sdpo.errors import RunError
from sdpo.registry.live import FILE, Live, read_live


class LivePointer:
    """The registry's live pointer, looked at on each request and read again when it was moved."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._seen: tuple[int, int, int] | None = None
        self._live = Live()

    def read(self) -> Live:
        """Return the pointer. Of one that cannot be read, say so and return the last one that could be."""
        try:
            found = os.stat(self._path)
            seen = (found.st_mtime_ns, found.st_size, found.st_ino)
        except OSError:
            seen = None
        if seen != self._seen:
            self._seen = seen
            try:
                self._live = read_live(self._path.parent) if seen else Live()
            except RunError as error:
                print(f"warning: {error}", file=sys.stderr, flush=True)
        return self._live
