"""Settings: each is declared once, in this package, with its help, its default and its limits.

The setting `train_n` is the environment variable and Make variable `TRAIN_N` and the flag `--train-n`. The modules
of this package declare the settings by kind of job, and `sdpo.settings.resolve` reads their values. The functions
below work on settings that are resolved.
"""

import dataclasses
import inspect
import re
import shlex
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from sdpo.llm.address import without_credentials
from sdpo.settings.chat import ChatSettings
from sdpo.settings.common import CommonSettings, JobSettings, LaunchSettings
from sdpo.settings.data import ConversationPrepSettings, LogsPrepSettings, PrepSettings, SourcePrepSettings
from sdpo.settings.declare import Setting, flag, setting
from sdpo.settings.evaluation import EvalSettings
from sdpo.settings.gateway import (
    ExportConversationsSettings,
    ForgetSettings,
    GatewayKeySettings,
    GatewaySettings,
    StoreSettings,
)
from sdpo.settings.gpu_checks import GpuCheckSettings
from sdpo.settings.learn import (
    CanarySettings,
    DemoLoopSettings,
    LearnSettings,
    PromoteSettings,
    RegistrySettings,
    RollbackSettings,
)
from sdpo.settings.offline import OfflineSettings
from sdpo.settings.publishing import PublishingSettings, PushDataSettings
from sdpo.settings.report import ReportSettings
from sdpo.settings.signal import AnalysisSettings, AuditSettings, SignalSettings
from sdpo.settings.study import RealStudySettings, StudySettings
from sdpo.settings.training import OnlineSettings, SimulatorSettings, TrainingSettings

__all__ = [
    "AnalysisSettings",
    "AuditSettings",
    "CanarySettings",
    "ChatSettings",
    "CommonSettings",
    "ConversationPrepSettings",
    "DemoLoopSettings",
    "EvalSettings",
    "ExportConversationsSettings",
    "ForgetSettings",
    "GatewayKeySettings",
    "GatewaySettings",
    "GpuCheckSettings",
    "JobSettings",
    "LaunchSettings",
    "LearnSettings",
    "LogsPrepSettings",
    "OfflineSettings",
    "OnlineSettings",
    "PrepSettings",
    "PromoteSettings",
    "PublishingSettings",
    "PushDataSettings",
    "RealStudySettings",
    "RegistrySettings",
    "ReportSettings",
    "RollbackSettings",
    "Setting",
    "SignalSettings",
    "SimulatorSettings",
    "SourcePrepSettings",
    "StoreSettings",
    "StudySettings",
    "TrainingSettings",
    "flag",
    "setting",
]

# The sources of a value.
FLAG, MAKE, ENVIRONMENT, TINY, DOTENV = "flag", "Make variable", "environment", "TINY", ".env"
RECIPE, JOB, DEFAULT = "RECIPE", "job's default", "default"
RUN = "the run"  # the settings that a run recorded
MACHINE = "this machine's GPUs"


def settings_of(kind: type[CommonSettings]) -> dict[str, Setting]:
    """Return the settings of a settings class by name: its own first, those of all jobs last."""
    hints = typing.get_type_hints(kind)
    groups = {name: owner for owner in kind.__mro__ for name in inspect.get_annotations(owner)}
    settings: dict[str, Setting] = {}
    for item in sorted(dataclasses.fields(kind), key=lambda item: kind.__mro__.index(groups[item.name])):
        if "help" not in item.metadata:
            continue
        hint: Any = hints[item.name]
        choices: tuple[str, ...] = ()
        if isinstance(hint, types.UnionType):
            hint = next(part for part in typing.get_args(hint) if part is not type(None))
        if typing.get_origin(hint) is Literal:
            hint, choices = str, typing.get_args(hint)
        group = (groups[item.name].__doc__ or "").strip()
        settings[item.name] = Setting(item.name, hint, choices, item.default, group=group, **item.metadata)
    return settings


def by_any_name(settings: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return the settings by lower-case name, aliases included."""
    return {name: declared for declared in settings.values() for name in declared.names}


def known_names() -> dict[str, Setting]:
    """Return the settings of all jobs by lower-case name, aliases included."""
    known: dict[str, Setting] = {}
    kinds: list[type[CommonSettings]] = [CommonSettings]
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        known |= by_any_name(settings_of(kind))
    return known


def source(settings: CommonSettings, name: str) -> str:
    """Return the source of a value: one of the above, or ".env, line N"."""
    return settings.sources.get(name, DEFAULT)


def origin(settings: CommonSettings, name: str) -> str:
    """Return where a value is from, in words that follow "from"."""
    words = {
        FLAG: f"the flag {flag(shown_name(name).lower())}",
        MAKE: f"the Make variable {shown_name(name)}",
        ENVIRONMENT: f"the environment variable {shown_name(name)}",
        TINY: "the job's TINY values",
        JOB: "the job's defaults",
        DEFAULT: "the defaults",
    }
    found = source(settings, name)
    return words.get(found, found)


def given(settings: CommonSettings) -> dict[str, Any]:
    """Return the values that the user gave by any means, as plain values without secrets."""
    secrets = {name for name, declared in settings_of(type(settings)).items() if declared.secret}
    return {
        name: value
        for name, value in redacted(settings).items()
        if name not in secrets and given_by_user(source(settings, name))
    }


def redacted(settings: CommonSettings) -> dict[str, Any]:
    """Return all settings as JSON values. A secret is "redacted", whether it is set or not.

    An address has no user and no password.
    """
    values = {}
    for name, declared in settings_of(type(settings)).items():
        value = getattr(settings, name)
        value = without_credentials(value) if isinstance(value, str) else value
        values[name] = "redacted" if declared.secret else str(value) if isinstance(value, Path) else value
    return values


def table(settings: CommonSettings) -> str:
    """Return the settings as lines of name, value and source; a secret's value is shown as "set" or "not set"."""
    rows = []
    for name, declared in settings_of(type(settings)).items():
        value = getattr(settings, name)
        shown = "not set" if value is None else "set" if declared.secret else as_text(value)
        rows.append((name.upper(), shown, source(settings, name)))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}" for name, value, origin in rows)


def given_by_user(source: str) -> bool:
    """Return whether a value from this source was given by the user."""
    return source in (FLAG, MAKE, ENVIRONMENT) or source.startswith(DOTENV)


def as_text(value: Any) -> str:
    """Return the text that parses to this value."""
    if isinstance(value, float):
        return re.sub(r"e([+-])0", r"e\1", repr(value))
    return str(int(value)) if isinstance(value, bool) else str(value)


def as_words(values: Mapping[str, Any]) -> list[str]:
    """Return settings as words of a Make command, quoted for a shell. Addresses lose their user and password."""
    texts = {name: without_credentials(as_text(value)) for name, value in values.items()}
    return [f"{shown_name(name)}={shlex.quote(text)}" for name, text in texts.items()]


def shown_name(name: str) -> str:
    """Return a setting's name as commands and messages have it. WORLD_SIZE is what launchers call GPUS."""
    return "GPUS" if name == "world_size" else name.upper()
