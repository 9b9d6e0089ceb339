"""The command line of a job: every setting as a flag (--lr 1e-6) and, as make takes it, as a word (LR=1e-6)."""

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from sdpo.errors import SettingError
from sdpo.settings import Setting, as_text, by_any_name, flag

_WORD = re.compile(r"([A-Z][A-Z0-9_]*)=(.*)", re.DOTALL)


def read(
    settings: Mapping[str, Setting], arguments: Sequence[str], job: str, summary: str, defaults: Mapping[str, Any]
) -> tuple[dict[str, str], list[str]]:
    """Return the text of each setting on the command line by the name it was given under, and what is none.

    Raises SettingError for a flag without its value. `--help` prints the help and exits.
    """
    parser = _Parser(
        prog=f"sdpo {job}",
        usage="%(prog)s [--setting value ...] [SETTING=value ...]",
        description=summary,
        epilog=_credentials_help(settings),
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    groups: dict[str, Any] = {}
    for declared in settings.values():
        if declared.secret:
            continue
        if declared.group not in groups:
            groups[declared.group] = parser.add_argument_group(declared.group.rstrip("."))
        default = defaults.get(declared.name, declared.default)
        notes = [f"one of {', '.join(declared.choices)}"] if declared.choices else []
        notes += ["not set" if default is None else f"default {as_text(default)}"]
        for name in declared.names:
            text = f"{declared.help} ({'; '.join(notes)})"
            groups[declared.group].add_argument(
                flag(name),
                metavar=name.upper(),
                help=(text if name == declared.name else f"the same as {flag(declared.name)}").replace("%", "%%"),
                **({"nargs": "?", "const": "1"} if declared.kind is bool else {}),
            )
    known, unknown = parser.parse_known_args(_words_as_flags(settings, arguments))
    return {name: text for name, text in vars(known).items() if text is not None}, unknown


def name_of_word(word: str) -> str | None:
    """Return the name in NAME=value, None for any other word."""
    match = _WORD.fullmatch(word)
    return match[1] if match else None


def _words_as_flags(settings: Mapping[str, Setting], arguments: Sequence[str]) -> list[str]:
    """Return the arguments with NAME=value as --name=value, unless it is the value of the flag before it."""
    by_name = by_any_name(settings)
    result: list[str] = []
    value_expected = False
    for argument in arguments:
        match = None if value_expected else _WORD.fullmatch(argument)
        declared = by_name.get(match[1].lower()) if match else None
        if match and declared and not declared.secret:
            argument = f"{flag(match[1].lower())}={match[2]}"
        result.append(argument)
        named = by_name.get(argument.removeprefix("--").replace("-", "_")) if argument.startswith("--") else None
        value_expected = named is not None and named.kind is not bool
    return result


def _credentials_help(settings: Mapping[str, Setting]) -> str:
    secrets = [declared for declared in settings.values() if declared.secret]
    lines = [f"  {declared.name.upper():22}{declared.help}" for declared in secrets]
    names = "Every flag is also a word, an environment variable and a Make variable: --run-id x is RUN_ID=x."
    return "\n".join([names, "", "Credentials, from the environment or .env only:", *lines])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingError(f"{message}. See --help.")
