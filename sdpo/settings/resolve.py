"""Resolves settings from the command line, Make, the environment and `.env`.

Precedence, highest first: flags and NAME=value words, Make variables, the environment, the job's TINY values (if
TINY is on), `.env` in the current folder, the job's own defaults, the declared defaults. An empty value counts as not
given. An unknown name is an error, so that a typo never trains for a day with the wrong value.
"""

import io
import os
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from dotenv.parser import parse_stream
from dotenv.variables import parse_variables

from sdpo.errors import SettingError, help_command, nearest
from sdpo.llm.address import without_credentials
from sdpo.settings import (
    DEFAULT,
    DOTENV,
    ENVIRONMENT,
    FLAG,
    JOB,
    MAKE,
    RECIPE,
    TINY,
    CommonSettings,
    Setting,
    as_text,
    by_any_name,
    command_line,
    flag,
    given_by_user,
    known_names,
    settings_of,
)
from sdpo.settings.elsewhere import OUR_NAMES, is_foreign
from sdpo.settings.recipes import RECIPES

# Set by the Makefile: the names of the variables given on make's command line.
MAKE_VARIABLES = "SDPO_MAKE_VARIABLES"
# Variables of make itself or of the Makefile: they are allowed on make's command line beside settings.
_MAKEFILE_NAMES = {"PYTHON", "SHELL", "MAKE", "MAKEFLAGS", "MAKEFILES", "DOCKER"}

# A shorter variable of the environment may well be another program's, whatever it resembles.
_SHORTEST_MISSPELT = 5

# Names in other jobs for the same thing: the file of interactions in audit and training, the checkpoints in eval.
_SAME_PURPOSE = {"data": "train_jsonl", "train_jsonl": "data", "ckpt": "ckpts", "ckpts": "ckpt"}
_SAME_PURPOSE |= {"model": "user_model_name_or_path"}  # of the simulator, which has no other model

Kind = TypeVar("Kind", bound=CommonSettings)


@dataclass(frozen=True)
class _Given:
    """A value as text, with its source."""

    name: str
    text: str
    source: str
    origin: str  # the source in words, for error messages
    conflict: str = ""  # why the value cannot be used: another name of the setting has another one


def resolve(
    kind: type[Kind],
    arguments: Sequence[str],
    *,
    job: str,
    summary: str = "",
    defaults: Mapping[str, Any] | None = None,
    tiny: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    dotenv: Path = Path(".env"),
) -> Kind:
    """Return the job's settings; their `sources` holds the source of each value.

    Raises SettingError for an unknown name and for an invalid value. `--help` prints the help and exits.
    """
    environment = os.environ if environment is None else environment
    settings, by_name = settings_of(kind), by_any_name(settings_of(kind))
    from_make, from_environment = _from_environment(settings, environment, job)
    sources_in_order = [
        _from_flags(settings, arguments, job, summary, defaults or {}),
        from_make,
        from_environment,
        _from_mapping(settings, tiny or {}, TINY, "the job's TINY values"),
        _from_dotenv(dotenv),
        _from_mapping(settings, defaults or {}, JOB, "the job's defaults"),
    ]
    layers = [_one_layer(items, by_name) for items in sources_in_order]
    if not next((_parse(by_name["tiny"], layer["tiny"]) for layer in layers if "tiny" in layer), False):
        layers = [layer for layer in layers if not any(item.source == TINY for item in layer.values())]
    recipe = next((_parse(by_name["recipe"], layer["recipe"]) for layer in layers if "recipe" in layer), None)
    if recipe:
        known = {name: value for name, value in RECIPES[recipe].items() if name in settings}
        given = _from_mapping(settings, known, RECIPE, f"RECIPE={recipe}")
        layers.insert(-1, _one_layer(given, by_name))
    return kind(**_chosen(settings, layers))


def export_dotenv(
    dotenv: Path = Path(".env"), environment: MutableMapping[str, str] | None = None, secrets: bool = True
) -> None:
    """Export credentials and other programs' variables from `.env` to the environment, where wandb and the hub look.

    Variables that are already set stay. An empty credential is removed, because it means not set.
    """
    environment = os.environ if environment is None else environment
    private = {name.upper() for name, declared in known_names().items() if declared.secret}
    for name in private & set(environment):
        if not environment[name].strip():
            del environment[name]
    # The last entry of a name counts, as for settings.
    values = {name: text.strip() for name, text, _ in _read_dotenv(dotenv) if text.strip()}
    for name, text in values.items():
        if (name in private or name.lower() not in known_names()) and (secrets or name not in private):
            environment.setdefault(name, text)


def _chosen(settings: Mapping[str, Setting], layers: Sequence[Mapping[str, _Given]]) -> dict[str, Any]:
    """Return each setting's value from the first layer that has it, and `sources` with where it came from."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name, declared in settings.items():
        item = next((layer[name] for layer in layers if name in layer), None)
        if item is None:
            values[name], sources[name] = declared.default, DEFAULT
            continue
        if item.conflict:
            raise SettingError(item.conflict)
        values[name] = _parse(declared, item)
        sources[name] = item.origin if item.source == DOTENV else item.source
    if values.get("data_path"):
        for name, file_name in (("train_jsonl", "train.jsonl"), ("val_jsonl", "validation.jsonl")):
            if name in values and not given_by_user(sources[name]):
                path = values["data_path"]
                values[name], sources[name] = path if path.is_file() else path / file_name, "DATA_PATH"
    return {**values, "sources": sources}


def _from_environment(
    settings: Mapping[str, Setting], environment: Mapping[str, str], job: str
) -> tuple[list[_Given], list[_Given]]:
    """Return the values of Make variables and those of other environment variables."""
    # A worker process inherits make's variables, and its launcher sets WORLD_SIZE in the environment.
    make_names = [name for name in environment.get(MAKE_VARIABLES, "").split() if name in environment]
    _refuse_unknown_variables(make_names, settings, job)
    other_names = [
        name for name in by_any_name(settings) if name.upper() in environment and name.upper() not in make_names
    ]
    return (
        [_Given(name.lower(), environment[name], MAKE, f"the Make variable {name}") for name in make_names],
        [
            _Given(name, environment[name.upper()], ENVIRONMENT, f"the environment variable {name.upper()}")
            for name in other_names
        ],
    )


def _from_dotenv(path: Path) -> list[_Given]:
    entries = _read_dotenv(path, refuse_unknown=True)
    return [_Given(name.lower(), text, DOTENV, f"{DOTENV}, line {line}") for name, text, line in entries]


def _from_mapping(settings: Mapping[str, Setting], values: Mapping[str, Any], source: str, origin: str) -> list[_Given]:
    if unknown := set(values) - set(settings):
        raise TypeError(f"{origin} name settings that the job does not have: {sorted(unknown)}")
    return [_Given(name, as_text(value), source, origin) for name, value in values.items() if value is not None]


def _one_layer(items: Iterable[_Given], by_name: Mapping[str, Setting]) -> dict[str, _Given]:
    """Return one source's values by setting name.

    If two names of a setting have different values, that is its `conflict`, and an error unless a source of higher
    precedence has a value.
    """
    layer: dict[str, _Given] = {}
    # The last value of a name counts.
    known = {item.name: item for item in items if item.name in by_name and item.text.strip()}
    for item in sorted(known.values(), key=lambda item: item.name not in by_name[item.name].own_names):
        declared = by_name[item.name]
        other = layer.get(declared.name)
        if other and item.source == DOTENV and item.name not in declared.own_names and other.name in declared.own_names:
            continue  # .env serves all jobs: there another job's name for the setting yields to the job's own
        if other and _parse(declared, other) != _parse(declared, item):
            both = f"{other.name.upper()}={other.text} and {item.name.upper()}={item.text}"
            conflict = f"{both} (from {item.origin}) are one setting, {declared.name.upper()}, with two values."
            item = replace(item, conflict=f"{conflict} Give one of them.")
        layer[declared.name] = item
    return layer


def _parse(declared: Setting, item: _Given) -> Any:
    text = item.text.strip()
    try:
        return declared.parse(text)
    except ValueError as allowed:
        shown = "the secret" if declared.secret else without_credentials(text)
        raise SettingError(
            f"{item.name.upper()}={shown} (from {item.origin}) must be {allowed}.{nearest(text, declared.choices)} "
            + ("Correct the path." if declared.kind is Path else "Give another value, or leave it out.")
        ) from None


def misspelt(kind: type[CommonSettings], environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the variables of the environment that are almost a setting's name, each with that name."""
    known = known_names()
    own_names = [own.upper() for own, declared in by_any_name(settings_of(kind)).items() if not declared.secret]
    found = []
    for name in sorted(environment):
        if len(name) < _SHORTEST_MISSPELT or name.lower() in known or is_foreign(name):
            continue
        if match := get_close_matches(name.upper(), own_names, n=1, cutoff=0.85):
            found.append((name, match[0]))
    return found


def _refuse(name: str, origin: str, settings: Mapping[str, Setting], job: str, shown: Callable[[str], str]) -> NoReturn:
    """Raise SettingError for a name that is no setting of the job, with the most likely intended one."""
    declared = known_names().get(name.lower().replace("-", "_"))
    if declared and declared.secret:
        raise SettingError(
            f"{origin}: a secret is taken from the environment or .env only, as {declared.name.upper()}."
        )
    own_names = [shown(own) for own, item in by_any_name(settings).items() if not item.secret]
    if declared and declared.name not in settings:
        here = _SAME_PURPOSE.get(declared.name, "")
        advice = f"Here it is {shown(here)}." if here in settings else "Leave it out."
        raise SettingError(f"{origin} is a setting of other jobs, {job} does not have it. {advice}")
    ours = OUR_NAMES.get(name.lower().replace("-", "_"), "")
    guess = "" if ours else nearest(shown(name), own_names)
    if ours in by_any_name(settings):
        guess = f" Here it is {shown(ours)}."
    raise SettingError(f"{origin} is not a setting of {job}.{guess} All of them: {help_command(job)}")


def _refuse_unknown_variables(names: Iterable[str], settings: Mapping[str, Setting], job: str) -> None:
    by_name = by_any_name(settings)
    for name in names:
        if (known := known_names().get(name.lower())) and known.secret:
            raise SettingError(
                f"the Make variable {name}: a command line is kept in the shell's history and shown to others of this "
                f"machine. Put the secret into .env, or into the environment: export {name}=..."
            )
        if (name.isupper() and name.lower() in by_name) or name in _MAKEFILE_NAMES or is_foreign(name):
            continue
        _refuse(name, f"the Make variable {name}", settings, job, str.upper)


def _from_flags(
    settings: Mapping[str, Setting], arguments: Sequence[str], job: str, summary: str, defaults: Mapping[str, Any]
) -> list[_Given]:
    texts, unknown = command_line.read(settings, arguments, job, summary, defaults)
    if unknown:
        _refuse_argument(unknown[0], settings, job)
    return [_Given(name, text, FLAG, f"the flag {flag(name)}") for name, text in texts.items()]


def _refuse_argument(argument: str, settings: Mapping[str, Setting], job: str) -> NoReturn:
    """Raise SettingError for an argument that is no setting. It is named without its value, which may be a secret."""
    if argument.startswith("--"):
        name = argument.partition("=")[0]
        _refuse(name.removeprefix("--"), f"the flag {name}", settings, job, flag)
    word = command_line.name_of_word(argument)
    if word is None:
        name = argument.partition("=")[0]
        raise SettingError(f"{name!r} is not a flag. Give settings to {job} as --name value or NAME=value.")
    if is_foreign(word) and word.lower() not in known_names():
        raise SettingError(f"{word} is a variable of another program. Put it before the command: {word}=... {job}.")
    _refuse(word, f"the word {word}", settings, job, str.upper)


def _read_dotenv(path: Path, refuse_unknown: bool = False) -> list[tuple[str, str, int]]:
    """Return name, value and line of each entry, with ${NAME} and ${NAME:-default} expanded as python-dotenv does.

    Raises SettingError for an invalid line or an unknown name.
    """
    try:
        content = path.read_text("utf-8-sig")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} cannot be read: {error}.") from None
    known = known_names()
    entries: list[tuple[str, str, int]] = []
    for binding in parse_stream(io.StringIO(content)):
        # The parser counts blank lines before an entry as part of it.
        original = binding.original.string
        line = binding.original.line + original[: len(original) - len(original.lstrip())].count("\n")
        if binding.error:
            raise SettingError(f"{path}, line {line} is not NAME=value. Correct it, or put a # before it.")
        if binding.key is None:
            continue
        name = binding.key
        # A variable of the environment takes precedence over an earlier entry, as it does for settings.
        known_values = {**{other: text for other, text, _ in entries}, **os.environ}
        text = "".join(part.resolve(known_values) for part in parse_variables(binding.value or ""))
        entries.append((name, text, line))
        if refuse_unknown and not (name.isupper() and name.lower() in known):
            secrets = {own.upper() for own, declared in known.items() if declared.secret}
            misspelled_secret = get_close_matches(name.upper(), secrets, n=1, cutoff=0.9)
            if misspelled_secret or not is_foreign(name):
                guess = nearest(name, secrets if misspelled_secret else [own.upper() for own in known])
                if ours := OUR_NAMES.get(name.lower()):
                    guess = f" Here it is {ours.upper()}."
                raise SettingError(f"{name} (from {path}, line {line}) is not a setting.{guess} Correct or remove it.")
    return entries
