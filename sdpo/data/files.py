"""Local files of a source as batches of rows: parquet, JSON lines or arrays, gzip of them. Memory stays flat."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpo.data.conversation import Dropped
from sdpo.data.documents import read_json
from sdpo.errors import RecordError, one_line

if TYPE_CHECKING:
    import pyarrow

ROWS = 1000  # rows a batch holds
SUFFIXES = (".parquet", ".jsonl", ".json", ".ndjson", ".jsonl.gz", ".json.gz", ".ndjson.gz")
_READ_AT_ONCE = 1 << 20  # bytes of a parquet column


def find(source: Path, splits: Sequence[str]) -> dict[str, list[Path]]:
    """Return the files of each split. Raises RecordError where a folder has none for one of them.

    In a folder a file belongs to the split that its name, or that of a folder it is in, begins with.
    A single file is the first split.
    """
    if source.is_file():
        return {splits[0]: [source]}
    files = sorted(path for path in source.rglob("*") if path.is_file() and path.name.lower().endswith(SUFFIXES))
    found = {}
    for split in splits:
        found[split] = [
            path for path in files if any(part.lower().startswith(split) for part in path.relative_to(source).parts)
        ]
        if not found[split]:
            raise RecordError(
                f"SOURCE={source} has no file for the split {split}. Name its files {split}*{SUFFIXES[0]} "
                f"or {split}*{SUFFIXES[1]}(.gz), or give one file."
            )
    return found


def batches(paths: Iterable[Path], columns: Sequence[str]) -> Iterator["list[Any] | pyarrow.RecordBatch"]:
    """Yield the files' rows, in order, a batch at a time: a list of JSON values, or a parquet batch of `columns`."""
    for path in paths:
        if path.suffix.lower() == ".parquet":
            yield from _parquet_batches(path, columns)
        else:
            yield from _chunked(read_json(path))


def rows_of(batch: "list[Any] | pyarrow.RecordBatch") -> list[dict | Dropped]:
    """Return a batch's rows as dictionaries; a row that is none comes as the reason."""
    if isinstance(batch, list):
        return [
            value if isinstance(value, dict | Dropped) else Dropped("a row that is not an object") for value in batch
        ]
    return batch.to_pylist()


def count_rows(paths: Iterable[Path]) -> int | None:
    """Return how many rows there are, where the files say it themselves, else None."""
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
    """Turn what goes wrong while a parquet file is read into a RecordError of one line."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError) as error:
        raise RecordError(f"{path} cannot be read as parquet: {one_line(error)}. Fetch it again.") from None


def _parquet_batches(path: Path, columns: Sequence[str]) -> Iterator["pyarrow.RecordBatch"]:
    import pyarrow.parquet

    # The default pool keeps what it was given back.
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    with reading_parquet(path):
        # Without these a row group is taken whole, and a file may be one group.
        file = pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=_READ_AT_ONCE)
        there = [name for name in file.schema_arrow.names if name in columns]
        if there:
            yield from file.iter_batches(ROWS, columns=there, use_threads=False)
            return
    raise RecordError(
        f"{path} has none of the columns {', '.join(columns)}: it has {', '.join(file.schema_arrow.names[:12])}. "
        "Give the source's own files."
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
    """Yield the files' rows in order; `advance` is told how many more were read."""
    for batch in batches(paths, columns):
        yield from rows_of(batch)
        advance(len(batch))
