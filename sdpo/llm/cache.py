"""Replies that were paid for: kept by what was asked, on disk as they come, so that no run pays twice.

A file belongs to one process. It is only ever appended to, so it is also the account of what was spent.
"""

import hashlib
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sdpo.llm.backend import Backend, Reply, Request


class ReplyCache:
    """Replies by key; with a path also lines of that file. `paid` is what the file held when it was opened."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.paid: list[Reply] = []
        self._collect_follow_ups: dict[str, Reply] = {}
        self._lock = threading.Lock()
        self._file: int | None = None
        if path is not None and path.exists():
            self._read()

    def get(self, key: str) -> Reply | None:
        """Return the reply kept under the key, None without one."""
        return self._collect_follow_ups.get(key)

    def add(self, key: str, reply: Reply) -> None:
        """Keep a reply; its line is in the system's hands before this returns."""
        row = {"key": key, "text": reply.text, "tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out}
        row |= {"seconds": round(reply.seconds, 3), "retries": reply.retries}
        with self._lock:
            self._collect_follow_ups[key] = reply
            if self.path is not None:
                self._append(json.dumps(row).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        if self._file is None:
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        while line:  # a full disk takes a part first and then refuses the rest
            line = line[os.write(self._file, line) :]

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
            _say(f"dropped the last line of {self.path}: it was cut short")
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                row = json.loads(line)
                reply = Reply(row["text"], row["tokens_in"], row["tokens_out"], row["seconds"], row["retries"])
                self._collect_follow_ups[row["key"]] = reply
                self.paid.append(reply)
            except (ValueError, KeyError, TypeError):
                _say(f"left out line {number} of {self.path}: it is not a reply that we wrote")


def keys_of(backend: Backend, requests: Sequence[Request]) -> list[str]:
    """Return a key for each request; the same request twice in a batch is two requests with two keys."""
    seen: Counter[str] = Counter()
    keys = []
    for request in requests:
        asked = [backend.kind, backend.model, request.messages, request.temperature, request.max_tokens]
        text = json.dumps([*asked, request.schema, request.sample], sort_keys=True)
        keys.append(hashlib.sha256(f"{seen[text]} {text}".encode()).hexdigest())
        seen[text] += 1
    return keys


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
