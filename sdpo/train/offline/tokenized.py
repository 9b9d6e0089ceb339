"""Tokenizes logged interactions once and caches the ids in a memory-mapped file beside the data.

The file's name has a digest of all that determines its content: the interactions, the tokenizer with its chat
template, the hindsight template and the limits. So a stale file is never read, and no file is made twice.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, disable_caching
from transformers import PreTrainedTokenizerBase

from sdpo import progress
from sdpo.text.records import Interaction, read_interactions
from sdpo.train.offline.truncation import TruncatedRow, TruncationLimits, truncate

FOLDER = ".tokenized"
_VERSION = "2"  # increase it when the code gives other ids for the same inputs
_IDS = pa.list_(pa.int32())
_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "conversation_id": pa.string(),
        "context": _IDS,
        "hindsight": _IDS,
        "completion": _IDS,
        "null": _IDS,
        "follow_up": pa.string(),
        "cut": pa.string(),
        "completion_cut": pa.bool_(),
        "fits": pa.bool_(),
    }
)
_ROWS = 1000  # per record batch


def tokenized(
    path: Path, make_with: str, tokenizer: PreTrainedTokenizerBase, limits: TruncationLimits, fallback: Path
) -> Dataset:
    """Return the interactions of a file as ids, one row each; `fits` is False for rows that cannot be truncated.

    The file is in a folder beside the data, or in one in `fallback` if that is not writable. `make_with` is the
    command that writes the data file. Raises RecordError for a malformed data file.
    """
    name = f"{path.stem}-{_digest(path, tokenizer, limits)}.arrow"
    folders = [path.parent / FOLDER, fallback / FOLDER]
    disable_caching()  # datasets derived from the rows go to a temporary folder, not beside the data
    for folder in folders:
        if (folder / name).exists():
            return Dataset.from_file(str(folder / name))
    folder = next(folder for folder in folders if _writable(folder))
    rows = read_interactions(path, make_with)
    _write(folder / name, progress.each(rows, "tokenizing", "rows"), tokenizer, limits)
    return Dataset.from_file(str(folder / name))


def _digest(path: Path, tokenizer: PreTrainedTokenizerBase, limits: TruncationLimits) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    vocabulary = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else json.dumps(tokenizer.get_vocab())
    limit_values = map(str, vars(limits).values())
    for part in (_VERSION, vocabulary, str(tokenizer.chat_template), tokenizer.eos_token, *limit_values):
        digest.update(part.encode("utf-8", "surrogatepass") + b"\x00")
    return digest.hexdigest()[:20]


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _write(
    path: Path, interactions: Iterable[Interaction], tokenizer: PreTrainedTokenizerBase, limits: TruncationLimits
) -> None:
    """Write the file under a temporary name and rename it, so that it is never incomplete."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file, pa.ipc.new_stream(file, _SCHEMA) as stream:
            rows = []
            for interaction in interactions:
                rows.append(_row(interaction, truncate(tokenizer, interaction, limits)))
                if len(rows) == _ROWS:
                    stream.write_batch(pa.RecordBatch.from_pylist(rows, _SCHEMA))
                    rows = []
            stream.write_batch(pa.RecordBatch.from_pylist(rows, _SCHEMA))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _row(interaction: Interaction, truncated: TruncatedRow | None) -> dict:
    fields = vars(truncated or TruncatedRow([], [], []))
    return {
        "id": interaction.id,
        "conversation_id": interaction.conversation_id,
        "follow_up": interaction.user_response,
        "fits": truncated is not None,
        **fields,
    }
