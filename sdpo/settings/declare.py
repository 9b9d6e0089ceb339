"""How a setting is declared, and how its text is read: help, default, limits."""

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TRUE, _FALSE = {"1", "true", "yes"}, {"0", "false", "no"}
_INSIDE = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le, "below": operator.lt}
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def setting(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    secret: bool = False,
    alias: str | None = None,
    check: Callable[[Any], str | None] | None = None,
) -> Any:
    """Declare a setting: a dataclass field with its help and its limits.

    `alias` is a second name for the same setting. `check` gets a value and returns what would be allowed
    where it is not, else None. A secret has no flag and is never shown.
    """
    limits = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    metadata = {"help": help, "limits": limits, "secret": secret, "alias": alias, "check": check}
    return field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True)
class Setting:
    """What is known of one setting; made from its declaration by `settings_of`."""

    name: str
    kind: type
    choices: tuple[str, ...]
    default: Any
    help: str
    limits: Mapping[str, float | None]
    secret: bool
    alias: str | None
    check: Callable[[Any], str | None] | None
    group: str

    @property
    def names(self) -> tuple[str, ...]:
        """The lower-case names it goes by."""
        return (self.name, self.alias) if self.alias else (self.name,)

    @property
    def allowed(self) -> str:
        """What its values may be, in words."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        words = {bool: "1 or 0", int: "a whole number", float: "a number", Path: "a path", str: "a text"}[self.kind]
        limits = [f"{name.replace('_', ' ')} {limit:g}" for name, limit in self.limits.items() if limit is not None]
        return " ".join([words, " and ".join(limits)]).strip()

    def parse(self, text: str) -> Any:
        """Return the value that `text` stands for. Raises ValueError saying what is allowed."""
        value = self._convert(text)
        if problem := self.check and self.check(value):
            raise ValueError(problem)
        return value

    def _convert(self, text: str) -> Any:
        if self.choices:
            if text not in self.choices:
                raise ValueError(self.allowed)
            return text
        if self.kind is bool:
            if text.lower() not in _TRUE | _FALSE:
                raise ValueError("1 or 0 (true or false, yes or no)")
            return text.lower() in _TRUE
        if self.kind in (int, float):
            if not (_INTEGER if self.kind is int else _NUMBER).fullmatch(text):
                raise ValueError(self.allowed)
            value = self.kind(text)
            inside = all(limit is None or _INSIDE[name](value, limit) for name, limit in self.limits.items())
            if not inside or not math.isfinite(value):
                raise ValueError(self.allowed)
            return value
        if self.kind is Path:
            try:
                return Path(text).expanduser()
            except RuntimeError:
                raise ValueError("a path whose ~ stands for a home folder that exists") from None
        return text


def flag(name: str) -> str:
    """Return the flag of a setting."""
    return "--" + name.replace("_", "-")
