"""Where each source is on the hub, and how its files come here.

Revisions are pinned where the content could move. Files are downloaded as they are, found and cached the way
`datasets` does it; reading them is left to `files`, so a local copy and the hub go the same way.
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

_SECONDS_TO_ANSWER = 30


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set: where it is, which of its columns are read, and what is made of a row."""

    hub: str
    revision: str
    columns: tuple[str, ...]
    splits: tuple[str, ...] = ("train",)
    config: str | None = None
    data_files: Mapping[str, str] | None = None
    prompt_of: Callable[[dict], str | Dropped] | None = None
    conversation_of: Callable[[dict, int], Conversation | Dropped] | None = None
    output: str = ""
    shuffled: bool = False


@dataclass(frozen=True)
class Origin:
    """The files of each split, and for the report where they came from."""

    files: dict[str, list[Path]]
    source: str
    revision: str | None = None
    commit: str | None = None


SOURCES = {
    "prep-tldr": Source(
        hub="openai/summarize_from_feedback",
        # The hub's own conversion: on main there is a loading script, which `datasets` no longer runs.
        revision="refs/convert/parquet",
        data_files={split: f"comparisons/{split}/*.parquet" for split in ("train", "validation")},
        splits=("train", "validation"),
        columns=("info",),
        prompt_of=rows.tldr,
    ),
    "prep-helpsteer": Source(
        hub="nvidia/HelpSteer2",
        revision="cece6cab0b0e2851523fd3664220d36a63337b47",
        data_files={split: f"{split}.jsonl.gz" for split in ("train", "validation")},
        splits=("train", "validation"),
        columns=("prompt", "response"),
        prompt_of=rows.helpsteer,
    ),
    "prep-wildfeedback": Source(
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
    "prep-wildchat": Source(
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


def locate(source: Source, local: Path | None, revision: str | None) -> Origin:
    """Return the source's files: those of a local file or folder, or the hub's, downloaded.

    Raises RecordError or ServerError where they cannot be had.
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
    print(f"asking the hub for {where}", flush=True)
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
            f"{where} cannot be had from the hub: {_short(error)}. Set HF_TOKEN if it asks for one, give another "
            "REVISION, or a local SOURCE."
        ) from None
    return Origin(
        {split: [Path(path) for path in files] for split, files in paths.items()},
        source.hub,
        revision,
        getattr(builder, "hash", None),
    )


def _check_reachable() -> None:
    """Ask the hub for nothing, once: an address that does not answer is then said at once, not after six attempts."""
    import httpx
    from huggingface_hub import constants

    if not constants.is_offline_mode():
        with suppress(httpx.ReadError, httpx.ReadTimeout, httpx.ProtocolError):  # it is there, which was the question
            httpx.head(constants.ENDPOINT, timeout=_SECONDS_TO_ANSWER)


def _short(error: BaseException) -> str:
    token = os.environ.get("HF_TOKEN", "").strip()
    text = one_line(error, 200).rstrip(".")
    return text.replace(token, "…") if token else text
