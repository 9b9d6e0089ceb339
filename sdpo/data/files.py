"""Reads local files as batches of rows: parquet, JSON lines or arrays, also gzip-compressed, in constant memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpo.data.conversation import Dropped
from sdpo.data.json_stream import read_json
from sdpo.errors import RecordError, one_line

if TYPE_CHECKING:
    import pyarrow

ROWS = 1000  # per batch
SUFFIXES = (".parquet", ".jsonl", ".json", ".ndjson", ".jsonl.gz", ".json.gz", ".ndjson.gz")
_READ_AT_ONCE = 1 << 20  # bytes of a parquet column


def find(source: Path, splits: Sequence[str]) -> dict[str, list[Path]]:
    """Return the files of each split. Raises RecordError if a folder has none for one of them.

    In a folder, a file belongs to a split if its name, or the name of a subfolder it is in, begins with the split's.
    A single file is the first split.
    """
    if source.is_file():
        return {splits[0]: [source]}
    files = sorted(path for path in source.rglob("*") if path.is_file() and path.name.lower().endswith(SUFFIXES))
    by_split: dict[str, list[Path]] = {}
    for split in splits:
        by_split[split] = [
            path for path in files if any(part.lower().startswith(split) for part in path.relative_to(source).parts)
        ]
        if not by_split[split]:
            raise RecordError(
                f"SOURCE={source} has no file for the split {split}. Name its files {split}*{SUFFIXES[0]} "
                f"or {split}*{SUFFIXES[1]}(.gz), or name a single file."
            )
    return by_split


def batches(paths: Iterable[Path], columns: Sequence[str]) -> Iterator["list[Any] | pyarrow.RecordBatch"]:
    """Yield the files' rows, in order, a batch at a time: a list of JSON values, or a parquet batch of `columns`."""
    for path in paths:
        if path.suffix.lower() == ".parquet":
            yield from _parquet_batches(path, columns)
        else:
            yield from _chunked(read_json(path))


def rows_of(batch: "list[Any] | pyarrow.RecordBatch") -> list[dict | Dropped]:
    """Return a batch's rows as dictionaries; for a row that is not an object, the reason why it is dropped."""
    if isinstance(batch, list):
        return [
            value if isinstance(value, dict | Dropped) else Dropped("a row that is not an object") for value in batch
        ]
    return batch.to_pylist()


def count_rows(paths: Iterable[Path]) -> int | None:
    """Return the number of rows if the files' metadata hold it (parquet), else None."""
    import pyarrow.parquet

    total = 0
    for path in paths:
        if path.suffix.lower() != ".parquet":
            return None
        with reading_parquet(path):
            total += pyarrow.parquet.read_metadata(path).num_rows
    return total


@contextmanager
def reading_parquet(path: Path) -> Iterator[None]:
    """Turn errors while a parquet file is read into a RecordError of one line."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise RecordError(f"{path} cannot be read as parquet: {one_line(error)}. Copy or download it again.") from None


def _parquet_batches(path: Path, columns: Sequence[str]) -> Iterator["pyarrow.RecordBatch"]:
    import pyarrow.parquet

    # The default memory pool does not return freed memory to the system.
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    with reading_parquet(path):
        # Without these options a complete row group is read at once, and a file may be a single group.
        file = pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=_READ_AT_ONCE)
        present = [name for name in file.schema_arrow.names if name in columns]
        if present:
            yield from file.iter_batches(ROWS, columns=present, use_threads=False)
            return
    raise RecordError(
        f"{path} has none of the columns {', '.join(columns)}: it has {', '.join(file.schema_arrow.names[:12])}. "
        "Give the data set's original files."
    )


def _chunked(values: Iterable[Any]) -> Iterator[list[Any]]:
    batch = []
    for value in values:
        batch.append(value)
        if len(batch) == ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def rows(paths: Iterable[Path], columns: Sequence[str], advance: Callable[[int], Any]) -> Iterator[dict | Dropped]:
    """Yield the files' rows in order; `advance` is called with the number of rows of each batch that was consumed."""
    for batch in batches(paths, columns):
        yield from rows_of(batch)
        advance(len(batch))
