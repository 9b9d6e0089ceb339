"""A table on disk, memory-mapped, whose rows can be taken in any order.

The rows are spooled into a file without a name, so that nothing is left of it however the process ends. The pages
that were read are handed back as we go: mapped pages count as the process's memory until somebody else needs it.
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
from sdpo.data.documents import NOT_JSON
from sdpo.data.files import rows_of

_GATHERED = 4000  # rows taken at once
_TOUCHED = 10  # rows after whose taking the pages go back; each has brought in some pages of every column
_JSON = pyarrow.schema([("json", pyarrow.large_string())])


class Table:
    """The rows of some batches, to be iterated in a shuffled order. Close it to free the space on disk."""

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
        """Forget the rows and give the disk space back."""
        self._parts, self._maps = [], []
        self._file.close()

    def shuffled(self, seed: int) -> Iterator[tuple[int, dict | Dropped]]:
        """Yield every row with its number, in the order that `datasets.Dataset.shuffle(seed)` gives."""
        order = numpy.random.default_rng(seed).permutation(len(self))
        for start in range(0, len(order), _GATHERED):
            numbers = order[start : start + _GATHERED]
            yield from zip(numbers.tolist(), self._take(numbers), strict=True)

    def _take(self, numbers: "numpy.ndarray") -> list[dict | Dropped]:
        """Return rows by number: each part's rows at once, then put in order."""
        firsts = numpy.array([first for first, _ in self._parts])
        parts = numpy.searchsorted(firsts, numbers, side="right") - 1
        by_part = numpy.argsort(parts, kind="stable")
        rows: list[Any] = [None] * len(numbers)
        touched = 0
        for places in numpy.split(by_part, numpy.flatnonzero(numpy.diff(parts[by_part])) + 1):
            first, batch = self._parts[parts[places[0]]]
            taken = batch.take(pyarrow.array(numbers[places] - first))
            touched += len(places)
            if touched >= _TOUCHED:
                self._hand_back()
                touched = 0
            for place, row in zip(places.tolist(), _rows(taken), strict=True):
                rows[place] = row
        return rows

    def _hand_back(self) -> None:
        for pages in self._maps:
            if hasattr(pages, "madvise"):
                pages.madvise(mmap.MADV_DONTNEED)

    def _spool(self, batches: Iterable["list[Any] | pyarrow.RecordBatch"]) -> list[int]:
        """Write the batches as Arrow streams, a new one where the columns change; return where each begins."""
        starts, writer, schema = [], None, None
        for batch in batches:
            if isinstance(batch, list):
                batch = pyarrow.record_batch([[_text(value) for value in batch]], schema=_JSON)
            if schema is None or not batch.schema.equals(schema):
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
        """Go to a place in the file where a map may begin."""
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
    """Return a JSON value as text; what is none as an empty text, which no JSON value is."""
    try:
        return "" if isinstance(value, Dropped) else json.dumps(value)
    except RecursionError:
        return ""


def _rows(batch: "pyarrow.RecordBatch") -> list[dict | Dropped]:
    if batch.schema != _JSON:
        return rows_of(batch)
    return rows_of([json.loads(text) if text else NOT_JSON for text in batch.column(0).to_pylist()])
