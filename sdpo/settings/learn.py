"""The settings of the registry and of learning from what was said."""

# ruff: noqa: RUF009 (`setting` is a `field`)

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdpo.settings.checks import existing_file, existing_folder, existing_path, http_address, plain_name, setting_words
from sdpo.settings.common import MODEL_ELSEWHERE, JobSettings
from sdpo.settings.declare import setting
from sdpo.settings.gateway import StoreSettings


@dataclass(frozen=True, kw_only=True)
class RegistrySettings(StoreSettings):
    """The registry, and the server that its versions are loaded into."""

    upstream: str | None = setting(
        None,
        "the OpenAI-compatible server that a version is loaded into before it goes live; if not set, only the pointer "
        "moves",
        check=http_address,
    )
    upstream_kind: Literal["auto", "vllm", "folders"] = setting(
        "auto",
        "how UPSTREAM takes a version: vllm loads adapters by request, folders (transformers serve) takes a folder as "
        "the model's name; auto: as the server answers",
    )
    upstream_api_key: str | None = setting(None, "for an UPSTREAM that requires a key", secret=True)
    upstream_timeout: float = setting(
        600.0, "the seconds that UPSTREAM may take to load a version and answer with it", above=0
    )
    unload_after: float = setting(
        60.0, "the seconds for answers in flight before the version that was live is unloaded", at_least=0
    )
    canary: float = setting(
        0.0, "the share of conversations that a new version answers before it goes live; 0 is off", at_least=0, below=1
    )


@dataclass(frozen=True, kw_only=True)
class RollbackSettings(RegistrySettings):
    """Moving the live pointer."""

    version: str | None = setting(
        None,
        "the version, such as v0003; else the newest candidate after the live one, or the former one to roll back to",
        check=plain_name,
    )
    force: bool = setting(False, "promote a version although its verdict is to keep the model that is there")


@dataclass(frozen=True, kw_only=True)
class PromoteSettings(RollbackSettings):
    """Promoting a training run."""

    run_dir: Path | None = setting(
        None, "a training run, of which a checkpoint becomes a new version and goes live", check=existing_folder
    )
    ckpt: int | None = setting(
        None, "the step of that checkpoint; if not set, the one that the evaluation chose, else the last good one",
        at_least=1,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings(RegistrySettings):
    """Comparing a canary with what is live."""

    canary_min: int = setting(50, "the ratings or follow-ups that each side needs before they are compared", at_least=2)
    canary_margin: float = setting(
        0.05, "how much worse a share may be, at the end of its interval, for a candidate to go live", at_least=0
    )


@dataclass(frozen=True, kw_only=True)
class CanarySettings(ComparisonSettings):
    """Ending a canary."""

    finish: bool = setting(False, "do what the comparison says: promote the candidate, or take it back")


@dataclass(frozen=True, kw_only=True)
class LearnSettings(ComparisonSettings, JobSettings):
    """Learning from what was said."""

    model: str = setting("Qwen/Qwen3-8B", "the base model, a hub name or a folder", elsewhere=MODEL_ELSEWHERE)
    input: Path | None = setting(
        None, "conversations in files, instead of STORE_URL: a file, a ZIP archive, or a folder", check=existing_path
    )
    conversations: Literal["all", "unused"] = setting(
        "all", "learn from all that the store keeps, or from what no version has learned from yet"
    )
    from_live: bool = setting(False, "train on from the live version, instead of from the base model", alias="continue")
    min_interactions: int = setting(64, "with fewer interactions nothing is learned", at_least=8)
    held_out: float = setting(
        0.2, "the share of persons whose interactions are held out for the evaluation", above=0, below=1
    )
    max_person_share: float = setting(
        0.1,
        "the largest share of the training interactions that may come from one person; of 10 to 19 persons twice an "
        "equal share, with fewer no limit",
        above=0,
        at_most=1,
    )
    style: str | None = setting(None, "the style that users ask for, by name, if a rule or an oracle can read it")
    style_file: Path | None = setting(None, "a JSON file with your own styles", check=existing_file)
    judge_model: str | None = setting(
        None,
        "the judge of audit and evaluation: a model, a claude-… name, or rule with a STYLE that a rule reads; "
        "if not set, MODEL",
    )
    judge_url: str | None = setting(
        None, "an OpenAI-compatible server with the judges, instead of loading them here", check=http_address
    )
    judge_api_key: str | None = setting(None, "for a JUDGE_URL that requires a key", secret=True)
    audit_settings: str = setting(
        "RECIPE=recommended AUDIT_N=256",
        "settings of the audit, as NAME=value words, in place of all of the default",
        check=setting_words,
    )
    train_settings: str = setting(
        "RECIPE=recommended SAVE_LIMIT=3",
        "settings of the training, as NAME=value words, in place of all of the default",
        check=setting_words,
    )
    eval_settings: str = setting("", "settings of the evaluation, as NAME=value words", check=setting_words)
    max_hours: float | None = setting(
        None, "end the training at a checkpoint this many hours after the start, but not before its first step", above=0
    )
    auto_promote: bool = setting(True, "let a version go live if its verdict says so; with CANARY as a canary first")


@dataclass(frozen=True, kw_only=True)
class DemoLoopSettings(JobSettings):
    """The loop as a demo."""

    demo_conversations: int = setting(240, "how many conversations the users have", at_least=64)
    demo_users: int = setting(24, "how many users there are, all at once", at_least=12)
    demo_stay: bool = setting(False, "leave server and gateway running until Ctrl-C")
