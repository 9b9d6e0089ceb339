"""The settings of data preparation."""

# ruff: noqa: RUF009 (`setting` is a `field`)

from dataclasses import dataclass
from pathlib import Path

from sdpo.settings.checks import existing_path
from sdpo.settings.common import MODEL_ELSEWHERE, CommonSettings
from sdpo.settings.declare import setting


@dataclass(frozen=True, kw_only=True)
class PrepSettings(CommonSettings):
    """Preparing data."""

    out_dir: Path = setting(Path("data"), "the folder for the data and the report about it")
    force: bool = setting(False, "overwrite existing output")
    model: str | None = setting(
        None,
        "report lengths in tokens of this model, a hub name or a folder; if not set, in characters",
        elsewhere=MODEL_ELSEWHERE,
    )


@dataclass(frozen=True, kw_only=True)
class SourcePrepSettings(PrepSettings):
    """The source of the rows."""

    source: Path | None = setting(
        None, "a local file, or a folder with files named by split, instead of the hub", check=existing_path
    )
    revision: str | None = setting(None, "a branch or commit of the hub's dataset, instead of the pinned one")


@dataclass(frozen=True, kw_only=True)
class ConversationPrepSettings(SourcePrepSettings):
    """The conversations to keep."""

    drop_toxic: bool = setting(False, "leave out conversations that the source marks as toxic")
    drop_redacted: bool = setting(False, "leave out conversations that the source marks as redacted")
    max_conversations: int = setting(0, "stop after this many kept conversations; 0 keeps all", at_least=0)
    max_interactions: int = setting(
        0, "stop after this many interactions, once MIN_CONVERSATIONS are kept; 0 keeps all", at_least=0
    )
    min_conversations: int = setting(
        0, "keep at least this many conversations before MAX_INTERACTIONS applies", at_least=0
    )


@dataclass(frozen=True, kw_only=True)
class LogsPrepSettings(PrepSettings):
    """Your own conversations."""

    input: Path | None = setting(
        None, "the conversations: a file, a ZIP archive, or a folder of these", check=existing_path
    )
    redact: bool = setting(
        True,
        "replace keys, passwords, e-mail, phone, card, IBAN and identity numbers, addresses of machines by marks",
    )
    redact_names: bool = setting(False, "replace names of persons too; needs presidio")
    id_key: Path | None = setting(
        None,
        "a file with a secret: a conversation's id that looks private becomes a hash by it, always the same one, and "
        "not a mark",
        check=existing_path,
    )
