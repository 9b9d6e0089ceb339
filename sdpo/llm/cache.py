"""The reply cache: replies of models by request, stored on disk as they arrive, so that no request is paid twice.

A file belongs to one process. It is append-only, so it is also the record of what was paid for.
"""

import hashlib
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdpo.llm.backend import Backend, Reply, Request


class ReplyCache:
    """Replies by key; with a path they are also lines of that file. `paid` is what the file held when it was opened."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.paid: list[Reply] = []
        self._replies: dict[str, Reply] = {}
        self._lock = threading.Lock()
        self._file: int | None = None
        if path is not None and path.exists():
            self._read(path)

    def get(self, key: str) -> Reply | None:
        """Return the reply for the key, None if there is none."""
        return self._replies.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Store a reply. Its line is handed to the operating system before this returns."""
        row: dict[str, Any] = {"key": key, "text": reply.text}
        row |= {"tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out}
        row |= {"seconds": round(reply.seconds, 3), "retries": reply.retries}
        row |= {} if reply.raw is None else {"raw": reply.raw}
        with self._lock:
            self._replies[key] = reply
            if self.path is not None:
                self._append(self.path, json.dumps(row).encode() + b"\n")

    def _append(self, path: Path, line: bytes) -> None:
        if self._file is None:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        while line:  # on a full disk the first write may be partial, and the next one fails
            line = line[os.write(self._file, line) :]

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        complete = content[: content.rfind(b"\n") + 1]
        if len(complete) < len(content):
            os.truncate(path, len(complete))
            _warn(f"dropped the last line of {path}: it was truncated")
        for number, line in enumerate(complete.splitlines(), start=1):
            try:
                row = json.loads(line)
                counts = (row["tokens_in"], row["tokens_out"], row["seconds"], row["retries"])
                reply = Reply(row["text"], *counts, raw=row.get("raw"))
                self._replies[row["key"]] = reply
                self.paid.append(reply)
            except (ValueError, KeyError, TypeError):
                _warn(f"skipped line {number} of {path}: it is not a cached reply")


def keys_of(backend: Backend, requests: Sequence[Request]) -> list[str]:
    """Return a key for each request. Equal requests in one batch are separate draws and get different keys."""
    seen: Counter[str] = Counter()
    keys = []
    for request in requests:
        content = [backend.kind, backend.model, request.messages, request.temperature, request.max_tokens]
        text = json.dumps([*content, request.schema, request.sample], sort_keys=True)
        keys.append(hashlib.sha256(f"{seen[text]} {text}".encode()).hexdigest())
        seen[text] += 1
    return keys


def _warn(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
