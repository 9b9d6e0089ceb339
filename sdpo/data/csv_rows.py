"""Reads CSV files as people have them: any usual delimiter, Excel's `sep=` line, quotes left open."""

import csv
from collections.abc import Iterator
from itertools import count
from typing import IO

from sdpo.data import columns
from sdpo.data.conversation import Dropped
from sdpo.data.json_stream import Source, open_text
from sdpo.data.redact import Redactor
from sdpo.errors import RecordError

_LONGEST_FIELD = 1 << 28  # characters in one field
_LOST = 20  # lines in a field whose quote is not closed, from which on it is an error: it is no truncated last row
_HEAD = 1 << 16


def is_csv(source: Source) -> bool:
    """Return whether a file is CSV, judged by its first line, and by its name if it has columns that are not known."""
    with open_text(source) as text:
        head = text.read(_HEAD).lstrip()
    if head[:1] in ("", "{", "["):
        return False
    lines = [line for line in head.splitlines() if line.strip()]
    delimiter, header = _header(lines)
    if not header:
        return False
    return columns.are_known(header) or (source.name.lower().endswith((".csv", ".tsv")) and bool(delimiter))


def _header(lines: list[str]) -> tuple[str, list[str]]:
    """Return the delimiter and the names of the columns in a file's first lines; Excel may name the delimiter first."""
    if len(lines) > 1 and _names_delimiter(lines[0]):
        delimiter = lines[0].strip().strip('"')[4:5] or "\t"
        line = lines[1]
    else:
        line = lines[0] if lines else ""
        delimiter = max(",;\t|", key=line.count)
    try:
        return delimiter, [columns.column_name(name) for name in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return delimiter, []


def _names_delimiter(line: str) -> bool:
    return line.strip().strip('"').lower().startswith("sep=")


class _Lines:
    """The lines of a text; `ended` is True once one was asked for after the last: a row goes on beyond the end."""

    def __init__(self, text: IO[str]) -> None:
        self._text, self.ended = text, False

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._text.readline()
        self.ended = not line
        if not line:
            raise StopIteration
        return line


def _first_lines(text: IO[str]) -> list[str]:
    """Read up to the line with the columns' names, and return it, after the one that names the delimiter."""
    lines: list[str] = []
    while not lines or (len(lines) == 1 and _names_delimiter(lines[0])):
        line = text.readline()
        if not line:
            break
        lines += [line] if line.strip() else []
    return lines


def csv_rows(source: Source) -> Iterator[dict | Dropped]:
    """Yield the rows of a CSV file by its columns' names, and why a row is dropped in the place of one.

    Raises RecordError if the columns are not those of conversations, or if a quote that is not closed takes in many
    lines.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    with open_text(source, newline="") as text:
        delimiter, names = _header(_first_lines(text))
        if not columns.are_known(names):
            # Without a header, the first line is a message.
            found = Redactor(True).words(", ".join(name or "(no name)" for name in names[:12]))
            raise RecordError(f"{source} has the columns {found}. Needed are {columns.NEEDED}: rename the columns.")
        lines_left = _Lines(text)
        rows = csv.reader(lines_left, delimiter=delimiter)
        for number in count(1):
            try:
                fields = next(rows)
            except StopIteration:
                return
            except csv.Error:
                yield Dropped("not CSV")
                continue
            if lines_left.ended:
                if (lost := sum(field.count("\n") for field in fields)) > _LOST:
                    raise RecordError(
                        f"{source}, row {number}: a quote is not closed, and takes in the {lost:,} lines after it. "
                        "Close it, or write a quote inside a field twice."
                    )
                yield Dropped("a quote that is not closed")
            elif any(field.strip() for field in fields[len(names) :]):
                yield Dropped("more fields than the header has")
            elif any(fields):
                yield dict(zip(names, fields, strict=False))
