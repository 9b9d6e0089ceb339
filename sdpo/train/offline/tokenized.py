"""Logged interactions as token ids in one memory-mapped file beside the data, made once for each way to make it.

The file's name holds a digest of all that decides its content: the interactions, the tokenizer with its chat
template, the hindsight template and the limits. So nothing stale is ever read, and nothing is made twice.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, disable_caching
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from sdpo.text.records import Interaction, read_interactions
from sdpo.train.offline.truncation import TruncatedRow, TruncationLimits, truncate

FOLDER = ".tokenized"
_VERSION = "1"  # raised when the same inputs come to give other ids
_IDS = pa.list_(pa.int32())
_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "conversation_id": pa.string(),
        "context": _IDS,
        "hindsight": _IDS,
        "completion": _IDS,
        "unrelated": _IDS,
        "follow_up": pa.string(),
        "cut": pa.string(),
        "completion_cut": pa.bool_(),
        "fits": pa.bool_(),
    }
)
_ROWS = 1000  # written at a time


def tokenized(
    path: Path, make_with: str, tokenizer: PreTrainedTokenizerBase, limits: TruncationLimits, otherwise: Path
) -> Dataset:
    """Return the interactions of a file as ids, a row each, memory-mapped; rows that cannot fit have `fits` False.

    The file lies in a folder beside the data, or in `otherwise` where that cannot be written. Raises RecordError
    for a malformed data file.
    """
    name = f"{path.stem}-{_digest(path, tokenizer, limits)}.arrow"
    folders = [path.parent / FOLDER, otherwise / FOLDER]
    disable_caching()  # what is derived from the rows goes to a temporary folder, not beside the data
    for folder in folders:
        if (folder / name).exists():
            return Dataset.from_file(str(folder / name))
    folder = next(folder for folder in folders if _writable(folder))
    rows = read_interactions(path, make_with)
    _write(folder / name, tqdm(rows, desc="tokenizing", unit=" rows", mininterval=1), tokenizer, limits)
    return Dataset.from_file(str(folder / name))


def _digest(path: Path, tokenizer: PreTrainedTokenizerBase, limits: TruncationLimits) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    words = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else json.dumps(tokenizer.get_vocab())
    for part in (_VERSION, words, str(tokenizer.chat_template), tokenizer.eos_token, *map(str, vars(limits).values())):
        digest.update(part.encode("utf-8", "surrogatepass") + b"\x00")
    return digest.hexdigest()[:20]


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def _write(
    path: Path, interactions: Iterator[Interaction], tokenizer: PreTrainedTokenizerBase, limits: TruncationLimits
) -> None:
    """Write the file whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file, pa.ipc.new_stream(file, _SCHEMA) as stream:
            rows = []
            for interaction in interactions:
                rows.append(_row(interaction, truncate(tokenizer, interaction, limits)))
                if len(rows) == _ROWS:
                    stream.write_batch(pa.RecordBatch.from_pylist(rows, _SCHEMA))
                    rows = []
            stream.write_batch(pa.RecordBatch.from_pylist(rows, _SCHEMA))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _row(interaction: Interaction, fitted: TruncatedRow | None) -> dict:
    ids = vars(fitted or TruncatedRow([], [], []))
    return {
        "id": interaction.id,
        "conversation_id": interaction.conversation_id,
        "follow_up": interaction.user_response,
        "fits": fitted is not None,
        **ids,
    }
