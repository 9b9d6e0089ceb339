"""How a setting is declared (help, default, limits) and how its text is parsed."""

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
    elsewhere: tuple[str, ...] = (),
    check: Callable[[Any], str | None] | None = None,
) -> Any:
    """Return a dataclass field that declares a setting with its help and its limits.

    `alias` is a second name for the same setting, `elsewhere` are its names in other jobs, which this one accepts too.
    `check` gets the value and returns None if it is valid, otherwise a description of what is allowed. A secret has no
    flag and is never shown.
    """
    limits = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    names = {"alias": alias, "elsewhere": elsewhere}
    metadata = {"help": help, "limits": limits, "secret": secret, **names, "check": check}
    return field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True)
class Setting:
    """One setting, as `settings_of` reads it from its declaration."""

    name: str
    kind: type
    choices: tuple[str, ...]
    default: Any
    help: str
    limits: Mapping[str, float | None]
    secret: bool
    alias: str | None
    elsewhere: tuple[str, ...]
    check: Callable[[Any], str | None] | None
    group: str

    @property
    def names(self) -> tuple[str, ...]:
        """The setting's lower-case names: its own, its alias, and those that other jobs have for it."""
        return tuple(dict.fromkeys((self.name, *([self.alias] if self.alias else []), *self.elsewhere)))

    @property
    def own_names(self) -> tuple[str, ...]:
        """Those of the names that are this job's own."""
        return (self.name, self.alias) if self.alias else (self.name,)

    @property
    def allowed(self) -> str:
        """A description of the allowed values."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        words = {bool: "1 or 0", int: "a whole number", float: "a number", Path: "a path", str: "text"}[self.kind]
        limits = [f"{name.replace('_', ' ')} {limit:g}" for name, limit in self.limits.items() if limit is not None]
        return " ".join([words, " and ".join(limits)]).strip()

    def parse(self, text: str) -> Any:
        """Return the value that `text` stands for. Raises ValueError with a description of the allowed values."""
        value = self._convert(text)
        if self.check and (problem := self.check(value)):
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
                raise ValueError("a path whose ~ is an existing home folder") from None
        # A model may be a folder; where a shell did not expand it, as in .env, no library does.
        return str(Path(text).expanduser()) if text.startswith("~/") else text


def flag(name: str) -> str:
    """Return a setting's command-line flag."""
    return "--" + name.replace("_", "-")
