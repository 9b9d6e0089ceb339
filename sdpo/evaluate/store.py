"""Expensive results on disk, so that an evaluation that was killed resumes where it stopped.

Every process appends to a file of its own and reads the files of all, so a later evaluation with more or fewer
processes finds every result. A key covers everything that its result depends on, so a stored result is never outdated.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Store:
    """Key -> value, stored as lines of `name-N.jsonl` in a folder; N is the rank of the process."""

    def __init__(self, folder: Path, name: str, process: int = 0) -> None:
        self._values: dict[str, Any] = {}
        self._own = folder / f"{name}-{process}.jsonl"
        for path in sorted(folder.glob(f"{name}-*.jsonl")):
            self._read(path)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def add(self, values: Mapping[str, Any]) -> None:
        """Store values under keys that are new; their lines are written to the file before this returns."""
        new = {key: value for key, value in values.items() if key not in self._values}
        lines = "".join(json.dumps({"key": key, "value": value}) + "\n" for key, value in new.items()).encode()
        file = os.open(self._own, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            while lines:  # on a full disk, write() accepts a part first and raises on the next call
                lines = lines[os.write(file, lines) :]
        finally:
            os.close(file)
        self._values |= new

    def merge(self, values: Mapping[str, Any]) -> None:
        """Add values that another process has stored in its file."""
        self._values |= values

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if len(complete) < len(content) and path == self._own:
            os.truncate(path, len(complete))  # else the next line would be appended to the truncated one
        for line in complete.splitlines():
            try:
                row = json.loads(line)
                self._values.setdefault(row["key"], row["value"])
            except (ValueError, KeyError, TypeError):
                continue  # a damaged line: its result is computed again


def key_of(*parts: Any) -> str:
    """Return the key (SHA-256) of the values that a result depends on; they must be JSON-serializable."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
