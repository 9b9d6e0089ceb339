"""Results that were worked for, kept by what they are results of: a killed evaluation goes on where it was.

Every process appends to a file of its own and reads all of them, so that a later call with more or fewer
processes finds everything. Keys hold all that a result depends on; nothing here can be out of date.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Store:
    """Key -> value, as lines of `name-N.jsonl` in a folder, N being the process."""

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
        """Keep values; their lines are in the system's hands before this returns."""
        new = {key: value for key, value in values.items() if key not in self._values}
        lines = "".join(json.dumps({"key": key, "value": value}) + "\n" for key, value in new.items()).encode()
        file = os.open(self._own, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            while lines:  # a full disk takes a part first and then refuses the rest
                lines = lines[os.write(file, lines) :]
        finally:
            os.close(file)
        self._values |= new

    def merge(self, values: Mapping[str, Any]) -> None:
        """Take in what another process has kept."""
        self._values |= values

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content) and path == self._own:
            os.truncate(path, len(whole))  # the next line would go on where a kill cut this one
        for line in whole.splitlines():
            try:
                row = json.loads(line)
                self._values.setdefault(row["key"], row["value"])
            except (ValueError, KeyError, TypeError):
                continue  # not a line that we wrote: its result will be worked for again


def key_of(*parts: Any) -> str:
    """Return a key for what a result depends on, given as values that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
