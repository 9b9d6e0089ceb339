"""A gateway as a subprocess, as `make gateway` starts it, and requests to it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from sdpo.gateway.store import Store
from tests.commands import ROOT, clean_environment

# A PostgreSQL database in which the tests may make schemas: postgresql+psycopg://user@host/database.
POSTGRES = os.environ.get("SDPO_TEST_POSTGRES", "")


class Gateway:
    """A running gateway: its process, its address and the address of its store."""

    def __init__(self, process: subprocess.Popen, url: str, store_url: str, said: str) -> None:
        self.process, self.url, self.store_url, self.said = process, url, store_url, said
        self.root = url.removesuffix("/v1")

    def store(self) -> Store:
        return Store(self.store_url)

    def chat(self, *messages: str | dict, headers: dict | None = None, **body) -> httpx.Response:
        given = [message if isinstance(message, dict) else {"role": "user", "content": message} for message in messages]
        request = {"model": "sdpo", "messages": given, **body}
        return httpx.post(f"{self.url}/chat/completions", json=request, headers=headers, timeout=30)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def text_of(response: httpx.Response) -> str:
    return response.json()["choices"][0]["message"]["content"]


def said(text: str) -> dict:
    return {"role": "assistant", "content": text}


def streamed(content: bytes) -> str:
    """Return the text of the events in a streamed body that are whole."""
    text = ""
    for line in re.split(rb"\r?\n", content)[:-1]:
        if line.startswith(b"data: {"):
            for choice in json.loads(line[6:]).get("choices", []):
                text += choice["delta"].get("content") or ""
    return text


@contextmanager
def gateway(upstream: str, folder: Path, store_url: str | None = None, **settings: str) -> Iterator[Gateway]:
    """Run a gateway whose files are in the folder, and stop it at the end."""
    store_url = store_url or f"sqlite:///{folder / 'store.sqlite'}"
    given = {"UPSTREAM": upstream, "STORE_URL": store_url, "GATEWAY_PORT": "0", "REGISTRY": str(folder / "registry")}
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.gateway"],
        cwd=ROOT, env=clean_environment(**given | settings),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    lines = []
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line)
        if found := re.search(r"gateway: (http://\S+/v1) in front", line):
            lines.append(process.stdout.readline())
            break
    else:
        raise AssertionError("".join(lines))
    try:
        yield Gateway(process, found[1], store_url, "".join(lines))
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(40)
        process.stdout.close()
