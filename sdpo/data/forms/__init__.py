"""The forms of conversations that are read: one file per form.

A module here is a form if it has a `FORM`; it is found by its being here, so a form more is a file more.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from sdpo.data.conversation import Conversation, Dropped


@dataclass(frozen=True)
class Piece:
    """A part of a conversation: rows with the same `key` in a file belong together. `value` can be written as JSON."""

    key: str
    value: dict[str, Any]
    where: str = ""


@dataclass(frozen=True)
class Form:
    """How one form is recognised and read.

    name: what reports call it. matches: whether a row is in this form. read: the row's conversation, a piece of one, or
    why it is dropped; its second argument is a name for a conversation without an id. join: the conversations that the
    pieces of one key amount to; their `rows`, and each `Dropped` as one row, add up to the pieces. last: what it
    matches may be in another form too, so it is tried after those.
    """

    name: str
    matches: Callable[[dict], bool]
    read: Callable[[dict, str], Conversation | Dropped | Piece]
    join: Callable[[list[Piece]], Iterator[Conversation | Dropped]] | None = None
    last: bool = False


@cache
def forms() -> tuple[Form, ...]:
    """Return all forms, in the order in which they are tried."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    found = [module.FORM for module in modules if hasattr(module, "FORM")]
    return tuple(sorted(found, key=lambda form: (form.last, form.name)))


def form_of(row: dict) -> Form | None:
    """Return the form of a row, or None if it is unknown."""
    return next((form for form in forms() if form.matches(row)), None)
