"""Settings: each is declared once, here, with its help, its default and its limits.

A setting `train_n` is the environment and Make variable `TRAIN_N` and the flag `--train-n`. `sdpo.resolve`
reads them; what can be asked of settings that were read is below the declarations.
"""

# ruff: noqa: RUF009 (`setting` is a `field`)

import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

# Where a value came from.
FLAG, MAKE, ENVIRONMENT, TINY, DOTENV, JOB, DEFAULT = "flag", "make", "environment", "TINY", ".env", "job", "default"

_TRUE, _FALSE = {"1", "true", "yes"}, {"0", "false", "no"}
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def _plain_name(value: str) -> str | None:
    return None if re.fullmatch(r"\w[\w.+-]*", value) else "a name of letters, digits, '-', '_' and '.', not a path"


def _http_address(value: str) -> str | None:
    return None if re.match(r"https?://[^/\s]", value) else "an address such as http://127.0.0.1:8000/v1"


def _existing_file(value: Path) -> str | None:
    return None if value.is_file() else "a file that is there"


def _existing_folder(value: Path) -> str | None:
    return None if value.is_dir() else "a folder that is there"


def _existing_path(value: Path) -> str | None:
    return None if value.exists() else "a file or folder that is there"


def _template_file(value: Path) -> str | None:
    try:
        return None if "{follow_up}" in value.read_text("utf-8") else "a text file that contains {follow_up}"
    except (OSError, UnicodeDecodeError):
        return "a text file that can be read"


def setting(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    secret: bool = False,
    alias: str | None = None,
    check: Callable[[Any], str | None] | None = None,
) -> Any:
    """Declare a setting: a dataclass field with its help and its limits.

    `alias` is a second name for the same setting. `check` gets a value and returns what would be allowed
    where it is not, else None. A secret has no flag and is never shown.
    """
    limits = {"at_least": at_least, "above": above, "below": below}
    metadata = {"help": help, "limits": limits, "secret": secret, "alias": alias, "check": check}
    return field(default=default, repr=not secret, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class CommonSettings:
    """Every job."""

    seed: int = setting(42, "the seed of everything random", at_least=0, below=2**32)
    tiny: bool = setting(False, "run the whole job with the shipped tiny model and data, in minutes on a CPU")
    dry_run: bool = setting(False, "check all that can be checked, print settings and commands, do nothing")
    hf_token: str | None = setting(None, "for models and data that the hub gives only to some", secret=True)

    # Not a setting: name -> where its value came from.
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True)
class JobSettings(CommonSettings):
    """Every job with a run folder."""

    run_id: str | None = setting(
        None, "the run's name instead of the date; the same name continues that run", check=_plain_name
    )
    scratch: Path = setting(Path("runs"), "the folder that run folders are put in")
    output_dir: Path | None = setting(None, "the run's folder, instead of the one in SCRATCH")
    wandb_api_key: str | None = setting(None, "tracks online; without it, offline", secret=True)
    anthropic_api_key: str | None = setting(None, "for jobs that ask Claude", secret=True)


@dataclass(frozen=True, kw_only=True)
class PrepSettings(CommonSettings):
    """Preparing data."""

    out_dir: Path = setting(Path("data"), "the folder that the data and the report on it go to")
    force: bool = setting(False, "replace what is there already")
    model: str | None = setting(
        None, "report lengths in tokens of this model, a hub name or a folder; not set counts characters"
    )


@dataclass(frozen=True, kw_only=True)
class SourcePrepSettings(PrepSettings):
    """Where the rows come from."""

    source: Path | None = setting(
        None, "a local file, or a folder with files named by split, instead of the hub", check=_existing_path
    )
    revision: str | None = setting(None, "a branch or commit of the hub's data set, instead of the one we read")


@dataclass(frozen=True, kw_only=True)
class ConversationPrepSettings(SourcePrepSettings):
    """Which conversations are kept."""

    drop_toxic: bool = setting(False, "leave out conversations that the source marks as toxic")
    drop_redacted: bool = setting(False, "leave out conversations that the source has blackened in places")
    max_conversations: int = setting(0, "stop after so many kept conversations; 0 keeps all", at_least=0)
    max_interactions: int = setting(
        0, "stop at so many interactions, once MIN_CONVERSATIONS are kept; 0 keeps all", at_least=0
    )
    min_conversations: int = setting(0, "the conversations to keep before MAX_INTERACTIONS counts", at_least=0)


@dataclass(frozen=True, kw_only=True)
class LogsPrepSettings(PrepSettings):
    """Conversations of your own."""

    input: Path | None = setting(None, "the file with them, or a folder of such files", check=_existing_path)


@dataclass(frozen=True, kw_only=True)
class LaunchSettings(JobSettings):
    """Processes and devices."""

    world_size: int = setting(1, "the number of processes, one per GPU", at_least=1, alias="gpus")
    accelerate_config: Path | None = setting(
        None, "an accelerate config file to launch with, instead of the shipped ones", check=_existing_file
    )


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(LaunchSettings):
    """Training."""

    model_name_or_path: str = setting("Qwen/Qwen3-4B", "the model to train: a hub name or a folder")
    lr: float = setting(5e-6, "the learning rate", above=0)
    bs: int = setting(4, "the batch size per device", at_least=1)
    ga: int = setting(1, "how many batches make one optimizer step", at_least=1)
    train_n: int = setting(256, "how many training rows to use", at_least=1)
    train_jsonl: Path | None = setting(None, "the training rows")
    val_jsonl: Path | None = setting(None, "the validation rows")
    data_path: Path | None = setting(
        None, "a folder with train.jsonl and validation.jsonl, in place of the two above", check=_existing_folder
    )
    teacher: Literal["live", "frozen"] = setting(
        "live", "which model looks back with hindsight: the current one, or the one the run started from"
    )
    objective: Literal["token"] = setting("token", "how the signal becomes a loss")
    save_steps: int = setting(3, "write a checkpoint every so many steps", at_least=1)
    log_steps: int = setting(3, "log every so many steps", at_least=1)
    save_limit: int | None = setting(None, "keep only so many checkpoints; not set keeps all", at_least=1)
    resume: Literal["auto", "never"] = setting("auto", "continue the run in the run folder, or refuse to")
    eval_n: int = setting(0, "how many validation prompts to answer before and after training; 0 is off", at_least=0)
    eval_batch_size: int = setting(16, "the batch size of those answers", at_least=1)
    gradient_checkpointing: bool = setting(True, "save memory by computing activations twice")
    optimizer: Literal["auto", "adamw", "adamw_8bit"] = setting("auto", "auto: 8-bit AdamW on a GPU, AdamW elsewhere")
    precision: Literal["auto", "bf16", "fp32"] = setting("auto", "auto: bf16 on a GPU, fp32 elsewhere")
    hindsight_file: Path | None = setting(
        None, "a file with the hindsight template; it must contain {follow_up}", check=_template_file
    )


@dataclass(frozen=True, kw_only=True)
class OnlineSettings(TrainingSettings):
    """Online training and its simulated user."""

    user_model_name_or_path: str = setting("Qwen/Qwen3-4B", "the model that plays the user")
    style: str = setting("concise_casual_beginner", "the user's taste, by name")
    style_file: Path | None = setting(None, "a JSON file of tastes of your own: name -> text", check=_existing_file)
    simulator_url: str | None = setting(
        None, "an OpenAI-compatible server that plays the user; not set starts one for the job", check=_http_address
    )
    simulator_gpu: str | None = setting(
        None, "the GPU of the server started for the job; not set takes the first one the trainer leaves free"
    )
    concurrency: int = setting(32, "how many replies to ask for at once", at_least=1)
    simulator_timeout: float = setting(120.0, "seconds one reply may take, retries included", above=0)
    simulator_wait: float = setting(900.0, "seconds to wait, saved, for a user who went away", at_least=0)
    simulator_api_key: str | None = setting(None, "for a SIMULATOR_URL that asks for a key", secret=True)
    max_cost: float | None = setting(None, "stop, saved, before the user costs more US dollars than this", above=0)
    price_file: Path | None = setting(None, "a JSON file of prices in place of ours", check=_existing_file)
    user_temperature: float = setting(0.7, "the sampling temperature of the user", at_least=0)
    user_max_tokens: int = setting(128, "the longest reply of the user", at_least=1)
    max_prompt_tokens: int = setting(512, "longer prompts are left out and counted", at_least=1)
    max_completion_tokens: int = setting(258, "the longest answer", at_least=1)
    iterations: int = setting(1, "how many optimizer passes over one generation", at_least=1)
    clip: float = setting(0.2, "the clip on the token ratio; acts from the second iteration on", above=0)
    centre_signal: bool = setting(True, "centre the signal within each sequence")
    temperature: float = setting(1.0, "the sampling temperature of the answers", above=0)

    @property
    def user_is_claude(self) -> bool:
        """Whether Anthropic's API plays the user: a model of its, and no other server named for it."""
        return self.simulator_url is None and self.user_model_name_or_path.startswith("claude-")


@dataclass(frozen=True, kw_only=True)
class SimulatorSettings(JobSettings):
    """The simulated user's server."""

    user_model_name_or_path: str = setting("Qwen/Qwen3-4B", "the model that plays the user")
    port: int = setting(8000, "the port to listen on", at_least=1, below=65536)
    simulator_gpu: str | None = setting(None, "the GPU to use; not set leaves the choice to the server")


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
            at_least, above, below = (self.limits[name] for name in ("at_least", "above", "below"))
            inside = (at_least is None or value >= at_least) and (above is None or value > above)
            if not inside or (below is not None and value >= below) or not math.isfinite(value):
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
