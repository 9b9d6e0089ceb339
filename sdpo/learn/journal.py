"""The journal of a night: one line for each stage that ended, on the disk before the next one starts."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sdpo.runtime.run_directory import RunDirectory

FILE = "learn.jsonl"
ANEW = "anew"  # the line after which nothing of what was done before counts


class Journal:
    """The stages that ended, with what each one used and what came of it."""

    def __init__(self, folder: RunDirectory) -> None:
        self._folder = folder
        self.rows: list[dict[str, Any]] = folder.read_rows(FILE)

    def result(self, stage: str, inputs: str) -> dict[str, Any] | None:
        """Return the line of a stage that ended with these inputs, None if it has yet to run with them."""
        rows = (row for row in reversed(since_anew(self.rows)) if row["stage"] == stage)
        row = next(rows, None)
        return row if row is not None and row["inputs"] == inputs else None

    def append(self, row: dict[str, Any]) -> dict[str, Any]:
        """Write a line, with the time, and return it."""
        row = {**row, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        path: Path = self._folder.path / FILE
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(path, len(whole))  # half a line, of a process that was killed
        with path.open("ab") as file:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)
        return row


def since_anew(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of the stages since the night last began anew."""
    starts = [index for index, row in enumerate(rows, start=1) if row["stage"] == ANEW]
    return rows[starts[-1] :] if starts else rows
