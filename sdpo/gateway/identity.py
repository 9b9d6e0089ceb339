"""Who sends a request, in which conversation, and whether it may be kept."""

import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sdpo.data.json_stream import open_text
from sdpo.errors import RecordError
from sdpo.gateway import open_webui
from sdpo.gateway.exchanges import plain_id, plain_text
from sdpo.llm.address import is_loopback

# Open WebUI sends its headers with ENABLE_FORWARD_USER_INFO_HEADERS.
_CONVERSATION = ("x-conversation-id", open_webui.CHAT)
_USER = ("x-user-id", open_webui.USER)
_MESSAGE = ("x-message-id", open_webui.MESSAGE)
_OPT_OUT, _BESIDE = "x-sdpo-opt-out", "x-sdpo-beside"
OWN_HEADERS = ("x-sdpo-", *_CONVERSATION, *_USER, *_MESSAGE, open_webui.PREFIX)


@dataclass(frozen=True)
class Identity:
    """The sender of a request. `conversation` and `message` are the client's own names, None if it gives none."""

    key: str
    user: str
    conversation: str | None = None
    message: str | None = None
    opted_out: bool = False
    task: bool = False  # a client's own question about a conversation, such as for a title: no part of it


def identify(headers: Mapping[str, str], body: Mapping[str, Any], key: str) -> Identity:
    """Return who sent the request with this key, "" for none. The user is the key's name if nothing names one."""
    headers = _as_meant(headers)
    named = [headers.get(name) for name in _USER]
    named += [open_webui.token_user(headers), headers.get(open_webui.EMAIL)]
    named += [body.get(name) for name in ("user", "safety_identifier") if isinstance(body.get(name), str)]
    user = next((text for name in named if (text := plain_text(name))), key)
    return Identity(
        key=key,
        user=user,
        conversation=_first(headers, _CONVERSATION),
        message=_first(headers, _MESSAGE),
        opted_out=_says_yes(headers.get(_OPT_OUT)),
        task=_says_yes(headers.get(_BESIDE)) or open_webui.is_temporary(headers) or open_webui.is_task(headers, body),
    )


def _as_meant(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers in UTF-8, in which most clients send them; HTTP's own reading is Latin-1."""
    meant: dict[str, str] = {}
    for name, value in headers.items():
        if not value.isascii():
            with suppress(UnicodeError):
                value = value.encode("latin-1").decode("utf-8")
        meant.setdefault(name.lower(), value)
    return meant


def _says_yes(value: str | None) -> bool:
    return (value or "0").strip().lower() not in ("", "0", "false", "no")


def _first(headers: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((found for name in names if (found := plain_id(headers.get(name)))), None)


def bearer(headers: Mapping[str, str]) -> str | None:
    """Return the key that a request gives, None if it gives none."""
    kind, _, key = headers.get("authorization", "").strip().partition(" ")
    return (key.strip() if kind.lower() == "bearer" else None) or headers.get("x-api-key") or None


@lru_cache(maxsize=64)
def reached_by_others(host: str) -> bool:
    """Return whether other machines can reach a server that listens on this host."""
    return not is_loopback(f"http://{in_url(host)}")


def in_url(host: str) -> str:
    """Return a host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def addressed_plainly(headers: Mapping[str, str], by_others: bool) -> bool:
    """Return whether a request may come without a key: it was addressed to this machine, and by no page of another.

    With `by_others` also to an address in numbers or a name without dots, as in a network of containers. Without keys a
    page in a browser on this machine could otherwise talk to the gateway, by a public name of its own that leads here.
    """
    origin = headers.get("origin")
    addresses = [f"http://{headers.get('host', '')}", *([origin] if origin else [])]
    return all(_is_near(address, by_others) for address in addresses)


@lru_cache(maxsize=256)
def _is_near(address: str, by_others: bool) -> bool:
    try:
        host = urlsplit(address).hostname
    except ValueError:
        return False
    if not host:
        return False
    near = "." not in host or bool(re.fullmatch(r"[0-9.]+", host))
    return is_loopback(f"http://{in_url(host)}") or (by_others and near)


class OptOuts:
    """The users in a file, one a line, of whom nothing is kept. It is read again when it changes.

    Raises RecordError for a file that cannot be read. One that cannot be read later is warned of, and who opted out
    before still has.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._users = frozenset[str]() if path is None else self._read(path)
        self._seen: tuple[int, int, int] | None = None

    def __contains__(self, user: str) -> bool:
        if self._path is not None:
            self._refresh(self._path)
        return user in self._users

    def _refresh(self, path: Path) -> None:
        try:
            found = os.stat(path)
        except OSError:
            return  # it is being replaced
        seen = (found.st_mtime_ns, found.st_size, found.st_ino)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._users = self._read(path)
        except RecordError as error:
            print(f"warning: OPT_OUT_FILE: {error} Its last readable content holds.", file=sys.stderr, flush=True)

    @staticmethod
    def _read(path: Path) -> frozenset[str]:
        with open_text(path) as file:
            lines = [line.strip() for line in file]
        return frozenset(line for line in lines if line and not line.startswith("#"))
