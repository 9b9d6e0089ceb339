"""Settings: each is declared once, here, with its help, its default and its limits.

A setting `train_n` is the environment and Make variable `TRAIN_N` and the flag `--train-n`. The modules
of this package declare them, by kind of job; `sdpo.settings.resolve` reads them; below is what can be asked of those
that were read.
"""

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from sdpo.settings.common import CommonSettings, JobSettings, LaunchSettings
from sdpo.settings.data import ConversationPrepSettings, LogsPrepSettings, PrepSettings, SourcePrepSettings
from sdpo.settings.declare import Setting, flag, setting
from sdpo.settings.evaluation import EvalSettings
from sdpo.settings.offline import OfflineSettings
from sdpo.settings.signal import AnalysisSettings, AuditSettings, SignalSettings
from sdpo.settings.study import StudySettings
from sdpo.settings.training import OnlineSettings, SimulatorSettings, TrainingSettings

__all__ = [
    "AnalysisSettings",
    "AuditSettings",
    "CommonSettings",
    "ConversationPrepSettings",
    "EvalSettings",
    "JobSettings",
    "LaunchSettings",
    "LogsPrepSettings",
    "OfflineSettings",
    "OnlineSettings",
    "PrepSettings",
    "Setting",
    "SignalSettings",
    "SimulatorSettings",
    "SourcePrepSettings",
    "StudySettings",
    "TrainingSettings",
    "flag",
    "setting",
]

# Where a value came from.
FLAG, MAKE, ENVIRONMENT, TINY, DOTENV, JOB, DEFAULT = "flag", "make", "environment", "TINY", ".env", "job", "default"


def settings_of(kind: type[CommonSettings]) -> dict[str, Setting]:
    """Return every setting of a settings class by name, the class's own ones first and every job's last."""
    hints = typing.get_type_hints(kind)
    groups = {name: owner for owner in kind.__mro__ for name in inspect.get_annotations(owner)}
    found = {}
    for item in sorted(dataclasses.fields(kind), key=lambda item: kind.__mro__.index(groups[item.name])):
        if "help" not in item.metadata:
            continue
        hint, choices = hints[item.name], ()
        if isinstance(hint, types.UnionType):
            hint = next(part for part in typing.get_args(hint) if part is not type(None))
        if typing.get_origin(hint) is Literal:
            hint, choices = str, typing.get_args(hint)
        group = (groups[item.name].__doc__ or "").strip()
        found[item.name] = Setting(item.name, hint, choices, item.default, group=group, **item.metadata)
    return found


def by_any_name(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return the settings by every lower-case name that they go by."""
    return {name: declared for declared in settings.values() for name in declared.names}


def known_names() -> dict[str, Setting]:
    """Return the settings of all jobs by lower-case name, second names included."""
    found: dict[str, Setting] = {}
    kinds: list[type[CommonSettings]] = [CommonSettings]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        found |= by_any_name(settings_of(kind))
    return found


def source(settings: CommonSettings, name: str) -> str:
    """Return where a value came from: flag, make, environment, TINY, ".env, line N", job or default."""
    return settings.sources.get(name, DEFAULT)


def given(settings: CommonSettings) -> dict[str, Any]:
    """Return the values that the user gave, whichever way, as plain values and without secrets."""
    secrets = {name for name, declared in settings_of(type(settings)).items() if declared.secret}
    return {
        name: value
        for name, value in redacted(settings).items()
        if name not in secrets and is_theirs(source(settings, name))
    }


def redacted(settings: CommonSettings) -> dict[str, Any]:
    """Return every setting as a plain value that JSON can hold; of a secret not even whether it is set."""
    values = {}
    for name, declared in settings_of(type(settings)).items():
        value = getattr(settings, name)
        values[name] = "redacted" if declared.secret else str(value) if isinstance(value, Path) else value
    return values


def table(settings: CommonSettings) -> str:
    """Return the settings as lines of name, value and source; a secret is only set or not set."""
    rows = []
    for name, declared in settings_of(type(settings)).items():
        value = getattr(settings, name)
        shown = "not set" if value is None else "set" if declared.secret else as_text(value)
        rows.append((name.upper(), shown, source(settings, name)))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}" for name, value, origin in rows)


def is_theirs(source: str) -> bool:
    """Return whether a value from there was given by the user."""
    return source in (FLAG, MAKE, ENVIRONMENT) or source.startswith(DOTENV)


def as_text(value: Any) -> str:
    """Return a value as it would be written down to be read again."""
    if isinstance(value, float):
        return re.sub(r"e([+-])0", r"e\1", repr(value))
    return str(int(value)) if isinstance(value, bool) else str(value)
