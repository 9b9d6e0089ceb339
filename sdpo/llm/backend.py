"""Requests and replies, the protocol of a backend, and a backend whose model is a Python function."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sdpo.errors import ServerError, SettingError


class RequestRefused(ServerError):
    """The server refuses every request like this one: one of these `settings` has to be corrected first."""

    def __init__(self, message: str, *settings: str) -> None:
        super().__init__(message)
        self.settings = settings


@dataclass(frozen=True)
class Request:
    """A chat request.

    `schema` is a JSON schema for the reply, enforced if the server supports it. `sample` distinguishes requests that
    are otherwise equal: two draws have two numbers, a retry of one draw has the same number.
    """

    messages: list[dict]
    temperature: float
    max_tokens: int
    schema: dict | None = None
    sample: int = 0


@dataclass(frozen=True)
class Reply:
    """A model's reply; the text is empty if the model declined. Token counts are None if the server sends none.

    A client returns the text without thoughts. `raw` is what the model wrote if the text differs from it, for messages.
    """

    text: str
    tokens_in: int | None
    tokens_out: int | None
    seconds: float = 0.0
    retries: int = 0
    raw: str | None = None

    @property
    def written(self) -> str:
        """All that the model wrote: thoughts, and the words in which it declined."""
        return self.text if self.raw is None else self.raw


class Backend(Protocol):
    """A model that answers requests. `ask` blocks and may be called from several threads.

    `kind` and `model` identify the model independent of the server's address; `name` is for messages.
    """

    kind: str
    model: str
    name: str

    def ask(self, request: Request, deadline_seconds: float) -> Reply:
        """Return the reply.

        Raises RequestRefused if no attempt can succeed, ServerError if a later one may.
        """


class ScriptedBackend:
    """A model that is a Python function, for tests and for the tiny world."""

    kind = "scripted"

    def __init__(self, function: Callable[[Request], str], name: str = "scripted"):
        self.function = function
        self.name = self.model = name

    def ask(self, request: Request, deadline_seconds: float) -> Reply:
        """Return the function's result as a reply. Exceptions of the function are not caught."""
        started = time.monotonic()
        text = self.function(request)
        return Reply(text, None, None, time.monotonic() - started)


def deadline_error(name: str, seconds: float) -> ServerError:
    """Return the error for a reply that did not arrive within `seconds`."""
    return ServerError(f"{name}: no reply within {seconds:g} s.")


def checked_key(key: str, setting: str) -> str:
    """Return a key that can be sent. Raises SettingError, without showing it, for one that is none."""
    if not (key.isascii() and key.isprintable()):
        raise SettingError(f"{setting} contains characters that no key has. Copy it again.")
    return key
