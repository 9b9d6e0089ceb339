"""The settings of data preparation."""

# ruff: noqa: RUF009 (`setting` is a `field`)

from dataclasses import dataclass
from pathlib import Path

from sdpo.settings.checks import existing_path
from sdpo.settings.common import CommonSettings
from sdpo.settings.declare import setting


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
        None, "a local file, or a folder with files named by split, instead of the hub", check=existing_path
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

    input: Path | None = setting(None, "the file with them, or a folder of such files", check=existing_path)
