"""Reading JSON in all the ways people keep it: a line each, one array, one object; gzip or not; never all at once."""

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

from sdpo.data.conversation import Dropped
from sdpo.errors import RecordError

NOT_JSON = Dropped("not JSON")
_CHUNK = 1 << 20  # characters read at once
_LONGEST = 1 << 28  # characters that one item of an array may take
_GZIP = b"\x1f\x8b"


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[IO[str]]:
    """Open a UTF-8 file, compressed or not. What goes wrong while it is read is a RecordError of one line."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP
            raw.seek(0)
            plain = gzip.GzipFile(fileobj=raw) if packed else raw
            yield io.TextIOWrapper(io.BufferedReader(plain), encoding="utf-8-sig", newline=newline)
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is not UTF-8 ({error.reason}). Save it as UTF-8.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise RecordError(f"{path} is a gzip file that is broken or cut short. Fetch it again.") from None
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror or error}.") from None


def read_json(path: Path) -> Iterator[Any]:
    """Yield the values of a JSON file: its lines, the items of its array, or its one object.

    What is not JSON comes as the reason `NOT_JSON`, once for each line or, in an array, once for its rest.
    """
    with open_text(path) as text:
        head = _next_line(text)
        if not head:
            return
        first = head.lstrip()[0]
        if first == "[":
            # An array that fills its line may be the whole file, or the first of many lines.
            following = _next_line(text) if _parsed(head) is not NOT_JSON else ""
            yield from _lines(chain([head, following], text)) if following else _items(head, text)
        elif first == "{" and _parsed(head) is NOT_JSON:
            yield from _object_or_lines(head, text)
        else:
            yield from _lines(chain([_whole(head, text)], text))


def _next_line(text: IO[str]) -> str:
    """Return the next line that is not blank, or as much of it as a chunk holds; empty at the end."""
    while line := text.readline(_CHUNK):
        if not line.isspace():
            return line
    return ""


def _whole(head: str, text: IO[str]) -> str:
    return head if head.endswith("\n") else head + text.readline()


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return NOT_JSON


def _lines(lines: Iterator[str]) -> Iterator[Any]:
    for line in lines:
        if line and not line.isspace():
            yield _parsed(line)


def _object_or_lines(head: str, text: IO[str]) -> Iterator[Any]:
    """Yield the one object that begins here and goes over many lines; where it is none, what each line is."""
    start = head + text.read(_LONGEST)
    value = _parsed(start)
    if value is not NOT_JSON:
        yield value
    else:
        yield from _lines(chain(io.StringIO(start + text.readline()), text))


def _items(buffer: str, text: IO[str]) -> Iterator[Any]:
    """Yield the items of an array, of which `buffer` is the beginning."""
    decoder = json.JSONDecoder()
    place, more = buffer.index("[") + 1, True
    while True:
        while place < len(buffer) and buffer[place] in " \t\r\n,":
            place += 1
        if buffer[place : place + 1] == "]":
            if (buffer[place + 1 :] + text.read(_CHUNK)).strip():
                yield NOT_JSON
            return
        try:
            value, end = decoder.raw_decode(buffer, place)
        except RecursionError:
            yield NOT_JSON
            return
        except ValueError:
            value, end = NOT_JSON, len(buffer)
        # What ends with the buffer may go on after it: a number of which only the first digits are there.
        if end == len(buffer) and more and end - place < _LONGEST:
            added = text.read(max(_CHUNK, end - place))
            buffer, place, more = buffer[place:] + added, 0, bool(added)
            continue
        yield value
        if value is NOT_JSON:
            return
        place = end
