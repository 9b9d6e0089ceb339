"""Reading settings: from the command line, Make, the environment and `.env`.

Highest first: flags, Make variables, the environment, the job's TINY values (with TINY on), `.env` in the
current folder, the job's own defaults, the declared defaults. An empty value counts as not given, and a name
that is not known is an error, so that a slip of the pen never trains for a day with the wrong number.
"""

# ruff: noqa: SIM905 (lists of names read best as words)

import argparse
import io
import os
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from dotenv.parser import parse_stream

from sdpo.errors import SettingError, nearest
from sdpo.settings import (
    DEFAULT,
    DOTENV,
    ENVIRONMENT,
    FLAG,
    JOB,
    MAKE,
    TINY,
    CommonSettings,
    Setting,
    as_text,
    by_any_name,
    flag,
    is_theirs,
    known_names,
    settings_of,
)

# Set by the Makefile: the names of the variables given on make's command line.
MAKE_VARIABLES = "SDPO_MAKE_VARIABLES"
# Make's own, or the Makefile's: they may stand beside settings on make's command line.
_MAKEFILE_NAMES = {"PYTHON", "SHELL", "MAKE", "MAKEFLAGS", "MAKEFILES", "DOCKER"}

# Names in `.env` that belong to others and are handed on to them.
_FOREIGN_PREFIXES = (
    "HF_ HUGGINGFACE_ WANDB_ CUDA_ NVIDIA_ NCCL_ GLOO_ TORCH_ TORCHINDUCTOR_ PYTORCH_ TRITON_ OMP_ MKL_ OPENBLAS_ "
    "TOKENIZERS_ TRANSFORMERS_ DATASETS_ BNB_ ANTHROPIC_ OPENAI_ COMPOSE_ DOCKER_ LC_ XDG_ PYTHON PIP_ SSL_ REQUESTS_ "
    "LD_ AWS_ SLURM_ MPL"
).split()
_FOREIGN_NAMES = set(
    "UID GID USER HOME PATH SHELL LANG TZ TERM TMPDIR TMP TEMP NO_COLOR FORCE_COLOR COLUMNS CI "
    "HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY MASTER_ADDR MASTER_PORT CURL_CA_BUNDLE "
    "JOB BASE_IMAGE TORCH_INDEX".split()  # of the containers, as is what begins with DOCKER_
)

Kind = TypeVar("Kind", bound=CommonSettings)


@dataclass(frozen=True)
class _Given:
    """A value as somebody wrote it down, and where."""

    name: str
    text: str
    source: str
    place: str


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
    """Return the job's settings; `sources` on them says where each value came from.

    Raises SettingError for an unknown name and for a value that is not allowed. `--help` prints and exits.
    """
    environment = os.environ if environment is None else environment
    settings, by_name = settings_of(kind), by_any_name(settings_of(kind))
    made, inherited = _from_environment(settings, environment, job)
    sources_in_order = [
        _from_flags(settings, arguments, job, summary, defaults or {}),
        made,
        inherited,
        _from_mapping(settings, tiny or {}, TINY, "the job's TINY values"),
        _from_dotenv(dotenv),
        _from_mapping(settings, defaults or {}, JOB, "the job's defaults"),
    ]
    layers = [_one_layer(items, by_name) for items in sources_in_order]
    if not next((_parse(by_name["tiny"], layer["tiny"]) for layer in layers if "tiny" in layer), False):
        layers = [layer for layer in layers if not any(item.source == TINY for item in layer.values())]
    return kind(**_chosen(settings, layers))


def export_dotenv(
    dotenv: Path = Path(".env"), environment: MutableMapping[str, str] | None = None, secrets: bool = True
) -> None:
    """Put credentials and other programs' variables from `.env` where wandb and the hub look for them.

    What the environment already says stays. An empty credential is taken out: it means not set.
    """
    environment = os.environ if environment is None else environment
    private = {name.upper() for name, declared in known_names().items() if declared.secret}
    for name in private & set(environment):
        if not environment[name].strip():
            del environment[name]
    for name, text, _ in _read_dotenv(dotenv):
        if text.strip() and (name in private or name.lower() not in known_names()) and (secrets or name not in private):
            environment.setdefault(name, text.strip())


def _chosen(settings: Mapping[str, Setting], layers: Sequence[Mapping[str, _Given]]) -> dict[str, Any]:
    """Return each setting's value from the first layer that has it, and `sources`: where it came from."""
    values, sources = {}, {}
    for name, declared in settings.items():
        item = next((layer[name] for layer in layers if name in layer), None)
        if item is None:
            values[name], sources[name] = declared.default, DEFAULT
            continue
        values[name] = _parse(declared, item)
        sources[name] = item.place if item.source == DOTENV else item.source
    if values.get("data_path"):
        for name, file_name in (("train_jsonl", "train.jsonl"), ("val_jsonl", "validation.jsonl")):
            if name in values and not is_theirs(sources[name]):
                path = values["data_path"]
                values[name], sources[name] = path if path.is_file() else path / file_name, "DATA_PATH"
    return {**values, "sources": sources}


def _from_environment(
    settings: Mapping[str, Setting], environment: Mapping[str, str], job: str
) -> tuple[list[_Given], list[_Given]]:
    """Return what Make was given and, apart from it, what the environment says."""
    # A worker gets make's variables again, and in the environment beside them WORLD_SIZE from its launcher.
    made = [name for name in environment.get(MAKE_VARIABLES, "").split() if name in environment]
    _refuse_unknown_variables(made, settings, job)
    inherited = [name for name in by_any_name(settings) if name.upper() in environment and name.upper() not in made]
    return (
        [_Given(name.lower(), environment[name], MAKE, f"the Make variable {name}") for name in made],
        [
            _Given(name, environment[name.upper()], ENVIRONMENT, f"the environment variable {name.upper()}")
            for name in inherited
        ],
    )


def _from_dotenv(path: Path) -> list[_Given]:
    entries = _read_dotenv(path, refuse_unknown=True)
    return [_Given(name.lower(), text, DOTENV, f"{DOTENV}, line {line}") for name, text, line in entries]


def _from_mapping(settings: Mapping[str, Setting], values: Mapping[str, Any], source: str, place: str) -> list[_Given]:
    if unknown := set(values) - set(settings):
        raise TypeError(f"{place} name settings that the job does not have: {sorted(unknown)}")
    return [_Given(name, as_text(value), source, place) for name, value in values.items() if value is not None]


def _one_layer(items: Iterable[_Given], by_name: Mapping[str, Setting]) -> dict[str, _Given]:
    """Return one source's values by the settings' own names. Raises SettingError where two names disagree."""
    layer: dict[str, _Given] = {}
    for item in items:
        if item.name not in by_name or not item.text.strip():
            continue
        declared = by_name[item.name]
        other = layer.get(declared.name)
        if other and other.name != item.name and _parse(declared, other) != _parse(declared, item):
            raise SettingError(
                f"{other.name.upper()}={other.text} and {item.name.upper()}={item.text} (from {item.place}) are the "
                "same setting with two values. Give one of them."
            )
        layer[declared.name] = item
    return layer


def _parse(declared: Setting, item: _Given) -> Any:
    text = item.text.strip()
    try:
        return declared.parse(text)
    except ValueError as allowed:
        shown = "the secret" if declared.secret else text
        raise SettingError(
            f"{item.name.upper()}={shown} (from {item.place}) must be {allowed}. Give another value, or leave it out."
        ) from None


def _refuse(name: str, place: str, settings: Mapping[str, Setting], job: str, shown: Callable[[str], str]) -> None:
    """Raise SettingError for a name that is not one of the job's, by what it is likely to have meant."""
    declared = known_names().get(name.lower().replace("-", "_"))
    if declared and declared.secret:
        raise SettingError(f"{place}: a secret is taken from the environment or .env only, as {declared.name.upper()}.")
    takes = [shown(own) for own, item in by_any_name(settings).items() if not item.secret]
    if declared and declared.name not in settings:
        raise SettingError(f"{place}: {job} does not take this setting of other jobs. Leave it out.")
    raise SettingError(f"{place} is not a setting of {job}.{nearest(shown(name), takes)} See --help for all of them.")


def _refuse_unknown_variables(names: Iterable[str], settings: Mapping[str, Setting], job: str) -> None:
    by_name = by_any_name(settings)
    for name in names:
        if (name.isupper() and name.lower() in by_name) or name in _MAKEFILE_NAMES or _is_foreign(name):
            continue
        _refuse(name, f"the Make variable {name}", settings, job, str.upper)


def _from_flags(
    settings: Mapping[str, Setting], arguments: Sequence[str], job: str, summary: str, defaults: Mapping[str, Any]
) -> list[_Given]:
    parser = _Parser(
        prog=f"python -m jobs.{job.replace('-', '_')}",
        usage="%(prog)s [--setting value ...]",
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
            text = declared.help if name == declared.name else f"the same as {flag(declared.name)}"
            groups[declared.group].add_argument(
                flag(name),
                metavar=name.upper(),
                help=f"{text} ({'; '.join(notes)})".replace("%", "%%"),
                **({"nargs": "?", "const": "1"} if declared.kind is bool else {}),
            )
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        # Without the value: an unknown flag may have been meant to carry a secret.
        name = unknown[0].partition("=")[0]
        if not name.startswith("--"):
            raise SettingError(f"{name!r} is not a flag. Give settings to {job} as --name value.")
        _refuse(name.removeprefix("--"), f"the flag {name}", settings, job, flag)
    texts = {name: text for name, text in vars(known).items() if text is not None}
    return [_Given(name, text, FLAG, f"the flag {flag(name)}") for name, text in texts.items()]


def _credentials_help(settings: Mapping[str, Setting]) -> str:
    secrets = [declared for declared in settings.values() if declared.secret]
    lines = [f"  {declared.name.upper():22}{declared.help}" for declared in secrets]
    names = "Every flag is also an environment variable and a Make variable: --lr is LR, --run-id is RUN_ID."
    return "\n".join([names, "", "Credentials, from the environment or .env only:", *lines])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingError(f"{message}. See --help.")


def _is_foreign(name: str) -> bool:
    return name.upper() in _FOREIGN_NAMES or name.upper().startswith(tuple(_FOREIGN_PREFIXES))


def _read_dotenv(path: Path, refuse_unknown: bool = False) -> list[tuple[str, str, int]]:
    """Return name, value and line of each entry. Raises SettingError for a line or a name that is not one."""
    try:
        content = path.read_text("utf-8-sig")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"{path} cannot be read: {error}.") from None
    known, entries = known_names(), []
    for binding in parse_stream(io.StringIO(content)):
        # The parser counts the blank lines before an entry as its beginning.
        text = binding.original.string
        line = binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
        if binding.error:
            raise SettingError(f"{path}, line {line} is not NAME=value. Correct it, or put a # before it.")
        if binding.key is None:
            continue
        name = binding.key
        entries.append((name, binding.value or "", line))
        if refuse_unknown and not (name.isupper() and name.lower() in known):
            secrets = {own.upper() for own, declared in known.items() if declared.secret}
            slip = get_close_matches(name.upper(), secrets, n=1, cutoff=0.9)
            if slip or not _is_foreign(name):
                guess = nearest(name, secrets if slip else [own.upper() for own in known])
                raise SettingError(f"{name} (from {path}, line {line}) is not a setting.{guess} Correct or remove it.")
    return entries
