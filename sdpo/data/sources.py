"""Where each source is on the hub, and how its files are downloaded.

Revisions are pinned where the content could change. `datasets` resolves, downloads and caches the original files;
`files` reads them, so local copies and files from the hub take the same path.
"""

import errno
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sdpo.data import rows
from sdpo.data.conversation import Conversation, Dropped
from sdpo.data.files import find
from sdpo.errors import RecordError, ServerError, one_line

_TIMEOUT = 30  # seconds


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set on the hub, and which of its columns are read."""

    hub: str
    revision: str
    columns: tuple[str, ...]
    splits: tuple[str, ...] = ("train",)
    config: str | None = None
    data_files: Mapping[str, str] | None = None

    @property
    def outputs(self) -> list[str]:
        """The names of the files of records that are written."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PromptSource(Source):
    """A data set of prompts; `prompt_of` turns a row into a prompt, or gives the reason why not."""

    prompt_of: Callable[[dict], str | Dropped]

    @property
    def outputs(self) -> list[str]:
        """The names of the files of records that are written: one per split."""
        return [f"{split}.jsonl" for split in self.splits]


@dataclass(frozen=True, kw_only=True)
class ConversationSource(Source):
    """A data set of conversations; `conversation_of` turns a row and its number into one, or gives the reason why not.

    `output` is the file that its interactions are written to; `shuffled` whether rows are taken in random order.
    """

    conversation_of: Callable[[dict, int], Conversation | Dropped]
    output: str
    shuffled: bool = False

    @property
    def outputs(self) -> list[str]:
        """The names of the files of records that are written."""
        return [self.output]


@dataclass(frozen=True)
class Origin:
    """The files of each split, and where they came from (for the report)."""

    files: dict[str, list[Path]]
    source: str
    revision: str | None = None
    commit: str | None = None


PROMPT_SOURCES = {
    "prep-tldr": PromptSource(
        hub="openai/summarize_from_feedback",
        # The hub's conversion to parquet: main has a loading script, which `datasets` no longer runs.
        revision="refs/convert/parquet",
        data_files={split: f"comparisons/{split}/*.parquet" for split in ("train", "validation")},
        splits=("train", "validation"),
        columns=("info",),
        prompt_of=rows.tldr,
    ),
    "prep-helpsteer": PromptSource(
        hub="nvidia/HelpSteer2",
        revision="cece6cab0b0e2851523fd3664220d36a63337b47",
        data_files={split: f"{split}.jsonl.gz" for split in ("train", "validation")},
        splits=("train", "validation"),
        columns=("prompt", "response"),
        prompt_of=rows.helpsteer,
    ),
}
CONVERSATION_SOURCES = {
    "prep-wildfeedback": ConversationSource(
        hub="microsoft/WildFeedback",
        revision="8b1a3e530b949d6aacfad6ba8912e209a05bc846",
        config="wildfeedback",
        columns=(
            "conversations", "conversation", "conversation_id", "conversation_hash", "id", "model", "timestamp",
            "language", "toxic", "redacted",
        ),
        conversation_of=rows.wildfeedback,
        output="wildfeedback_interactions.jsonl",
    ),
    "prep-wildchat": ConversationSource(
        hub="allenai/WildChat",
        revision="d90663b816ce1914e255fb9a07bf6a634dd01a4a",
        columns=(
            "conversation_id", "conversation_hash", "model", "timestamp", "conversation", "language", "toxic",
            "redacted",
        ),
        conversation_of=rows.wildchat,
        output="wildchat_interactions_v1.jsonl",
        shuffled=True,
    ),
}  # fmt: skip
SOURCES: dict[str, Source] = {**PROMPT_SOURCES, **CONVERSATION_SOURCES}


def locate(source: Source, local: Path | None, revision: str | None) -> Origin:
    """Return the source's files: of a local file or folder, or downloaded from the hub.

    Raises RecordError if they do not exist or cannot be downloaded, and ServerError if the hub cannot be reached.
    """
    if local is not None:
        return Origin(find(local, source.splits), str(local))
    return _download(source, revision or source.revision)


def _download(source: Source, revision: str) -> Origin:
    import datasets
    import httpx

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    where = f"{source.hub} at {revision}"
    print(f"looking up {where} on the hub", flush=True)
    try:
        _check_reachable()
        builder = datasets.load_dataset_builder(
            source.hub, source.config, data_files=dict(source.data_files or {}) or None, revision=revision
        )
        listed = {str(split): list(files) for split, files in builder.config.data_files.items()}
        if missing := [split for split in source.splits if split not in listed]:
            raise RecordError(f"{where} has no files for the split {missing[0]}. Give another REVISION, or a SOURCE.")
        manager = datasets.DownloadManager(dataset_name=source.hub.split("/")[1])
        paths = manager.download({split: listed[split] for split in source.splits})
    except (ConnectionError, httpx.TransportError) as error:
        raise ServerError(
            f"the hub cannot be reached for {where}: {_short(error)}. Try again, or give a local SOURCE."
        ) from None
    except (OSError, ValueError, RuntimeError, httpx.HTTPError, datasets.exceptions.DatasetsError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RecordError(
            f"{where} cannot be loaded from the hub: {_short(error)}. Set HF_TOKEN if the data set needs one, give "
            "another REVISION, or a local SOURCE."
        ) from None
    return Origin(
        {split: [Path(path) for path in files] for split, files in paths.items()},
        source.hub,
        revision,
        getattr(builder, "hash", None),
    )


def _check_reachable() -> None:
    """Send the hub one request: an address that cannot be reached is then an error at once, not after six attempts."""
    import httpx
    from huggingface_hub import constants

    if not constants.is_offline_mode():
        with suppress(httpx.ReadError, httpx.ReadTimeout, httpx.ProtocolError):  # these mean that it was reached
            httpx.head(constants.ENDPOINT, timeout=_TIMEOUT)


def _short(error: BaseException) -> str:
    token = os.environ.get("HF_TOKEN", "").strip()
    text = one_line(error, 200).rstrip(".")
    return text.replace(token, "…") if token else text
