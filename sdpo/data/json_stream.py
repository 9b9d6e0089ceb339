"""Reads JSON lines, one JSON array or one JSON object, gzip-compressed or not, without loading the complete file."""

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import IO, Any, Protocol, cast

from sdpo.data.conversation import Dropped
from sdpo.errors import RecordError

NOT_JSON = Dropped("not JSON")
_CHUNK = 1 << 20  # characters read at once
_LONGEST = 1 << 28  # the most characters that one item of an array may have
_GZIP = b"\x1f\x8b"
_PEEK = 64  # bytes by which an encoding is recognised


class Source(Protocol):
    """A file that may be opened more than once; as a string, what messages call it."""

    @property
    def name(self) -> str:
        """The file's name, without its folder."""
        ...

    def open(self, mode: str) -> IO[bytes]:
        """Open the file for reading bytes, from its start."""
        ...


@contextmanager
def open_text(source: Source, newline: str | None = None) -> Iterator[IO[str]]:
    """Open a file in UTF-8, UTF-16 or UTF-32, gzip-compressed or not.

    Errors while reading it become a RecordError of one line.
    """
    try:
        with source.open("rb") as raw:
            compressed = raw.read(2) == _GZIP
            raw.seek(0)
            plain = io.BufferedReader(_unpacked(raw) if compressed else _raw(raw))
            yield io.TextIOWrapper(plain, encoding=encoding_of(plain.peek(_PEEK)[:_PEEK]), newline=newline)
    except UnicodeError as error:
        reason = getattr(error, "reason", str(error))
        raise RecordError(f"{source} is not UTF-8 or UTF-16 ({reason}). Save it as UTF-8.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise RecordError(f"{source} is a corrupt or truncated gzip file. Copy or download it again.") from None
    except OSError as error:
        raise RecordError(f"{source} cannot be read: {error.strerror or error}.") from None


def _raw(file: IO[bytes]) -> io.BufferedReader:
    return cast(io.BufferedReader, file)


def _unpacked(file: IO[bytes]) -> io.BufferedReader:
    return cast(io.BufferedReader, gzip.GzipFile(fileobj=file))


def encoding_of(head: bytes) -> str:
    """Return the encoding of a text by its first bytes: its mark, or where the zeros of ASCII characters stand."""
    for mark, name in (
        (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
    ):  # fmt: skip
        if head.startswith(mark):
            return name
    pairs = [head[index : index + 2] for index in range(0, min(len(head), _PEEK) - 1, 2)]
    if pairs and all(pair[1] == 0 and 9 <= pair[0] < 127 for pair in pairs[:2]):
        return "utf-16-le"
    if pairs and all(pair[0] == 0 and 9 <= pair[1] < 127 for pair in pairs[:2]):
        return "utf-16-be"
    return "utf-8-sig"


def read_json(source: Source) -> Iterator[Any]:
    """Yield the values of a JSON file: its lines, the items of its array, or its one object.

    Invalid JSON is yielded as the reason `NOT_JSON`: once per line or, in an array, once for the rest of it.
    """
    with open_text(source) as text:
        head = _next_line(text)
        if not head:
            return
        first = head.lstrip()[0]
        if first == "[":
            # An array that fills its line may be the complete file, or the first of many lines.
            following = _next_line(text) if _parsed(head) is not NOT_JSON else ""
            yield from _lines(chain([head, following], text)) if following else _items(head, text)
        elif first == "{" and _parsed(head) is NOT_JSON:
            yield from _object_or_lines(head, text)
        else:
            yield from _lines(chain([_complete_line(head, text)], text))


def _next_line(text: IO[str]) -> str:
    """Return the next line that is not blank, at most a chunk of it; an empty string at the end of the file."""
    while line := text.readline(_CHUNK):
        if not line.isspace():
            return line
    return ""


def _complete_line(head: str, text: IO[str]) -> str:
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
    """Yield the one object that starts here and spans many lines; if there is none, the value of each line."""
    start = head + text.read(_LONGEST)
    value = _parsed(start)
    if value is not NOT_JSON:
        yield value
    else:
        yield from _lines(chain(io.StringIO(start + text.readline()), text))


def _items(buffer: str, text: IO[str]) -> Iterator[Any]:
    """Yield the items of an array whose text starts in `buffer` and goes on in `text`."""
    decoder = json.JSONDecoder()
    position, more = buffer.index("[") + 1, True
    while True:
        while position < len(buffer) and buffer[position] in " \t\r\n,":
            position += 1
        if buffer[position : position + 1] == "]":
            if (buffer[position + 1 :] + text.read(_CHUNK)).strip():
                yield NOT_JSON
            return
        try:
            value, end = decoder.raw_decode(buffer, position)
        except RecursionError:
            yield NOT_JSON
            return
        except ValueError:
            value, end = NOT_JSON, len(buffer)
        # A value that ends with the buffer may be incomplete, for example the first digits of a number.
        if end == len(buffer) and more and end - position < _LONGEST:
            added = text.read(max(_CHUNK, end - position))
            buffer, position, more = buffer[position:] + added, 0, bool(added)
            continue
        yield value
        if value is NOT_JSON:
            return
        position = end
