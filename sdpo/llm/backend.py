"""What a model is asked and what it answers, whatever its transport; and the model that is a function."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sdpo.errors import ServerError


class RequestRefused(ServerError):
    """The server will refuse every request like this one: a setting has to be mended first."""

    status: int | None = None


@dataclass(frozen=True)
class Request:
    """What a model is asked.

    `schema` is a JSON schema for the reply, kept to where the server can. `sample` tells apart requests
    that are otherwise the same: two draws are two numbers, a second try of one draw is the same number.
    """

    messages: list[dict]
    temperature: float
    max_tokens: int
    schema: dict | None = None
    sample: int = 0


@dataclass(frozen=True)
class Reply:
    """What a model answered; an empty text where it declined to. Token counts are None where it does not tell."""

    text: str
    tokens_in: int | None
    tokens_out: int | None
    seconds: float
    retries: int = 0


class Backend(Protocol):
    """A model that can be asked. `ask` blocks and may be called from many threads.

    `kind` and `model` say whose reply it is, wherever the server stands; `name` is for messages to people.
    """

    kind: str
    model: str
    name: str

    def ask(self, request: Request, deadline_seconds: float) -> Reply:
        """Return the reply; raise Refused where no attempt can succeed, ServerError where a later one may."""


class ScriptedBackend:
    """A model that is a function, for tests and for the tiny world."""

    kind = "scripted"

    def __init__(self, function: Callable[[Request], str], name: str = "scripted"):
        self.function = function
        self.name = self.model = name

    def ask(self, request: Request, deadline_seconds: float) -> Reply:
        """Return what the function returns; whatever it raises is raised."""
        started = time.monotonic()
        text = self.function(request)
        return Reply(text, None, None, time.monotonic() - started)


def deadline_error(name: str, seconds: float) -> ServerError:
    """Return the error for a reply that did not arrive in time."""
    return ServerError(f"{name}: no reply within {seconds:g} s.")
