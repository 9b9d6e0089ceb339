"""A memory-mapped table on disk, whose rows can be read in any order.

The rows are spooled into an anonymous temporary file, which is deleted however the process ends. Pages are released
after reading: mapped pages count as the process's memory until another process needs it.
"""

import json
import mmap
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy
import pyarrow

from sdpo.data.conversation import Dropped
from sdpo.data.files import rows_of
from sdpo.data.json_stream import NOT_JSON

_ROWS = 4000  # read at once
_RELEASE_EVERY = 10  # rows; each one read loads a few pages of every column
_JSON = pyarrow.schema([("json", pyarrow.large_string())])


class Table:
    """The rows of some batches, for iteration in shuffled order. Close it to free the disk space."""

    def __init__(self, batches: Iterable["list[Any] | pyarrow.RecordBatch"], folder: Path) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by `close`)
        self._parts: list[tuple[int, pyarrow.RecordBatch]] = []
        self._maps: list[mmap.mmap] = []
        try:
            starts = self._spool(batches)
            self._map(starts)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self._parts[-1][0] + self._parts[-1][1].num_rows if self._parts else 0

    def close(self) -> None:
        """Drop the rows and free the disk space."""
        self._parts, self._maps = [], []
        self._file.close()

    def shuffled(self, seed: int) -> Iterator[tuple[int, dict | Dropped]]:
        """Yield each row's number and the row, in the order of `datasets.Dataset.shuffle(seed)`."""
        order = numpy.random.default_rng(seed).permutation(len(self))
        for start in range(0, len(order), _ROWS):
            numbers = order[start : start + _ROWS]
            yield from zip(numbers.tolist(), self._take(numbers), strict=True)

    def _take(self, numbers: "numpy.ndarray") -> list[dict | Dropped]:
        """Return rows by number: those of one record batch are read together, then put in the order asked for."""
        firsts = numpy.array([first for first, _ in self._parts])
        parts = numpy.searchsorted(firsts, numbers, side="right") - 1
        by_part = numpy.argsort(parts, kind="stable")
        rows: list[Any] = [None] * len(numbers)
        unreleased = 0
        for indices in numpy.split(by_part, numpy.flatnonzero(numpy.diff(parts[by_part])) + 1):
            first, batch = self._parts[parts[indices[0]]]
            taken = batch.take(pyarrow.array(numbers[indices] - first))
            unreleased += len(indices)
            if unreleased >= _RELEASE_EVERY:
                self._release_pages()
                unreleased = 0
            for index, row in zip(indices.tolist(), _rows(taken), strict=True):
                rows[index] = row
        return rows

    def _release_pages(self) -> None:
        for pages in self._maps:
            if hasattr(pages, "madvise"):
                pages.madvise(mmap.MADV_DONTNEED)

    def _spool(self, batches: Iterable["list[Any] | pyarrow.RecordBatch"]) -> list[int]:
        """Write the batches as Arrow streams, a new one whenever the columns change; return the offset of each."""
        starts: list[int] = []
        writer, schema = None, None
        for batch in batches:
            if isinstance(batch, list):
                batch = pyarrow.record_batch([[_text(value) for value in batch]], schema=_JSON)
            if writer is None or not batch.schema.equals(schema):
                if writer is not None:
                    writer.close()
                self._align()
                starts.append(self._file.tell())
                schema = batch.schema
                writer = pyarrow.ipc.new_stream(pyarrow.PythonFile(self._file, mode="w"), schema)
            writer.write_batch(batch)
        if writer is not None:
            writer.close()
        self._file.flush()
        return starts

    def _align(self) -> None:
        """Move to the next offset at which a memory map may start."""
        self._file.seek(-(-self._file.tell() // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY)

    def _map(self, starts: list[int]) -> None:
        number = 0
        size = self._file.seek(0, 2)
        for start, end in zip(starts, [*starts, size][1:], strict=True):
            pages = mmap.mmap(self._file.fileno(), end - start, access=mmap.ACCESS_READ, offset=start)
            self._maps.append(pages)
            for batch in pyarrow.ipc.open_stream(pyarrow.py_buffer(pages)):
                self._parts.append((number, batch))
                number += batch.num_rows


def _text(value: Any) -> str:
    """Return a JSON value as text; for invalid JSON an empty string, which is not the text of any JSON value."""
    try:
        return "" if isinstance(value, Dropped) else json.dumps(value)
    except RecursionError:
        return ""


def _rows(batch: "pyarrow.RecordBatch") -> list[dict | Dropped]:
    if batch.schema != _JSON:
        return rows_of(batch)
    return rows_of([json.loads(text) if text else NOT_JSON for text in batch.column(0).to_pylist()])
