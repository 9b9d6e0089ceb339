"""The files that hold someone's conversations: in a folder, alone, or in a ZIP archive; and their rows."""

import lzma
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from sdpo.data import columns
from sdpo.data.csv_rows import csv_rows, is_csv
from sdpo.data.forms import form_of
from sdpo.data.json_stream import NOT_JSON, Source, encoding_of, read_json
from sdpo.data.messages import id_of, read_message
from sdpo.data.shapes import value_of
from sdpo.errors import RecordError, one_line

FEEDBACK = "message_feedback.json"  # the ratings of a ChatGPT account, beside its conversations
_TEXTS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".gz", ".parquet")
_HEAD = 1 << 16
_WRAPPERS = ("conversations", "data", "items", "results", "chats", "rows", "records", "entries", "traces", "runs",
             "requests", "threads", "sessions", "history")  # fmt: skip
_BROKEN_ZIP = (
    zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, ValueError, zlib.error, lzma.LZMAError
)  # fmt: skip
_OFFICE = "an Excel or other office file"


class Member:
    """A file in a ZIP archive, unpacked into a file without a name when it is first opened."""

    def __init__(self, archive: Path, name: str, scratch: Path) -> None:
        self.name = name.rpartition("/")[2]
        self._archive, self._member, self._scratch = archive, name, scratch
        self._file: IO[bytes] | None = None

    def __str__(self) -> str:
        return f"{self._archive} ({self._member})"

    def open(self, mode: str) -> IO[bytes]:
        """Open the unpacked file. Raises RecordError if it cannot be unpacked."""
        if self._file is None:
            file = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115 (closed by `close`)
            try:
                with zipfile.ZipFile(self._archive) as archive, archive.open(self._member) as packed:
                    shutil.copyfileobj(packed, file)
                file.flush()
            except _BROKEN_ZIP as error:
                file.close()
                raise RecordError(
                    f"{self} cannot be unpacked: {one_line(error)}. Unpack the archive and give the folder."
                ) from None
            self._file = file
        opened = os.fdopen(os.dup(self._file.fileno()), "rb")
        opened.seek(0)
        return opened

    def close(self) -> None:
        """Free the disk space."""
        if self._file is not None:
            self._file.close()
            self._file = None


def paths_of(source: Path, own: Sequence[Path] = ()) -> list[Path]:
    """Return the file, or all files of the folder that are not hidden and not the job's `own`, written before."""
    if source.is_file():
        return [source]
    found = sorted(path for path in _files_in(source) if path.is_file() and not path.name.startswith("."))
    left_out = {path.resolve() for path in own}
    return [path for path in found if path.resolve() not in left_out]


def _files_in(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and those inside it, also where they are links; each folder once."""
    seen: set[str] = set()
    for inner, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(inner)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(inner, name) for name in names)


def sources_of(source: Path, scratch: Path, own: Sequence[Path] = ()) -> list[Source]:
    """Return the files to read, those in ZIP archives one by one; see `paths_of` for `own`.

    Raises RecordError for an archive that is broken.
    """
    results: list[Source] = []
    for path in paths_of(source, own):
        if _head(path)[:4] not in (b"PK\x03\x04", b"PK\x05\x06"):
            results.append(path)
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                names = [info.filename for info in archive.infolist() if not info.is_dir()]
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            if path.suffix.lower() == ".zip":
                raise RecordError(
                    f"{path} cannot be read as a ZIP archive: {one_line(error)}. Download it again."
                ) from None
            results.append(path)
            continue
        if "[Content_Types].xml" in names:
            results.append(path)
            continue
        shown = [name for name in names if not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))]
        results += [Member(path, name, scratch) for name in sorted(shown)]
    return results


def skip_reason(source: Source) -> str | None:
    """Return why a file cannot hold conversations, or None if it may: pictures, pages and other programs' files."""
    head = _head(source)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _OFFICE
    if head[:4] == b"PAR1" or head[:2] == b"\x1f\x8b":
        return None
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"%pdf")):
        return "not JSON, CSV or parquet"
    named = source.name.lower().endswith(_TEXTS)
    if not named and encoding_of(head) == "utf-8-sig" and (b"\0" in head or not _is_utf8(head)):
        return "not text"
    return None


def rows_of(source: Source) -> Iterator[Any]:
    """Yield the rows of a JSON, CSV or parquet file.

    Exports inside one object are unwrapped; the messages of one list become one row with `messages`.
    """
    if _head(source)[:4] == b"PAR1":
        rows: Iterator[Any] = _parquet_rows(source)
    else:
        rows = csv_rows(source) if is_csv(source) else read_json(source)
    alone: list[dict] = []  # messages that name no conversation: those of the file are one
    for value in rows:
        if isinstance(value, list):
            together = not value or (_are_messages(value) and not _are_several(value))
            yield from ({"messages": value},) if together else _unwrapped(value)
        elif isinstance(value, dict):
            value = {name: value_of(field) if name in columns.LIST_NAMES else field for name, field in value.items()}
            if form_of(value) is None and _is_message(value):
                alone.append(value)
            else:
                yield from _unwrapped(value)
        else:
            yield value
    if alone:
        yield {"messages": alone}


def ratings_of(source: Source) -> dict[str, Any]:
    """Return the rating of each message that a file of ratings names."""
    ratings = {}
    for value in rows_of(source):
        for row in value if isinstance(value, list) else [value]:
            if isinstance(row, dict) and isinstance(row.get("id"), str):
                ratings[row["id"]] = row.get("rating")
    return ratings


def _head(source: Source) -> bytes:
    try:
        with source.open("rb") as file:
            return file.read(_HEAD)
    except OSError as error:
        raise RecordError(f"{source} cannot be read: {error.strerror or error}.") from None


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 4 and len(head) == _HEAD  # cut in the middle of a character
    return True


def _are_messages(values: list) -> bool:
    return all(isinstance(value, dict) for value in values) and bool(values) and _is_message(values[0])


def _are_several(values: list) -> bool:
    """Return whether these are messages of more than one conversation, each with its id."""
    if not isinstance(values[0], dict) or id_of(columns.named(values[0]), *columns.CONVERSATION_NAMES) is None:
        return False
    rows = [columns.named(one) for one in values if isinstance(one, dict)]
    return len({id_of(row, *columns.CONVERSATION_NAMES) for row in rows}) > 1 and form_of(values[0]) is not None


def _is_message(value: Any) -> bool:
    if not isinstance(value, dict) or not ({"content", "value", "parts", "text"} & set(value)):
        return False
    return any(name in value for name in ("role", "from", "author", "sender")) and isinstance(read_message(value), list)


def _unwrapped(value: Any) -> Iterator[Any]:
    """Yield the conversations inside an object or a list of exports, or the value itself."""
    if isinstance(value, list):
        for item in value:
            yield from _unwrapped(item) if isinstance(item, dict) else (item,)
        return
    for name in _WRAPPERS:
        items = value.get(name)
        inner = list(items.values()) if isinstance(items, dict) else items
        known = [one for one in inner if isinstance(one, dict)] if isinstance(inner, list) else []
        if known and not _are_messages(known) and form_of(known[0]) is not None:
            yield from inner if isinstance(inner, list) else ()
            return
    items = value.get("messages")
    if isinstance(items, list) and items and _are_several(items):
        yield from items
        return
    inside = list(value.values())
    if form_of(value) is None and inside and all(isinstance(one, dict) and form_of(one) for one in inside):
        yield from inside
        return
    yield value


# Parquet


def _parquet_rows(source: Source) -> Iterator[dict]:
    import pyarrow.parquet

    try:
        with source.open("rb") as file:
            reader = pyarrow.parquet.ParquetFile(file, pre_buffer=False)
            for batch in reader.iter_batches(500, use_threads=False):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise RecordError(f"{source} cannot be read as parquet: {one_line(error)}. Download it again.") from None


__all__ = ["FEEDBACK", "NOT_JSON", "Member", "Source", "paths_of", "ratings_of", "rows_of", "skip_reason", "sources_of"]
