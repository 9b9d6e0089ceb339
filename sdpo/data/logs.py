"""The prep-logs job: detects the format of the user's own conversations and writes their interactions."""

import csv
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpo.data import exports
from sdpo.data.conversation import Conversation, Dropped, SourceMessage
from sdpo.data.exports import Line
from sdpo.data.json_stream import open_text, read_json
from sdpo.data.output import Outputs
from sdpo.data.prepare import (
    KINDS,
    PICTURE,
    REPORT,
    InteractionWriter,
    Progress,
    check_not_empty,
    check_output_folder,
    finish,
)
from sdpo.data.report import Lengths, measure_of
from sdpo.errors import RecordError, SettingError

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import LogsPrepSettings

OUTPUT = "logs_interactions.jsonl"
UNKNOWN = Dropped("a form that is not known")
_LONGEST_FIELD = 1 << 28  # characters in one field of a CSV file


def check(settings: "LogsPrepSettings", job: "Job") -> None:
    """Check all that can be checked without reading the files. Raises SdpoError for the first problem."""
    check_output_folder(settings, (OUTPUT, REPORT, PICTURE))
    source = _input(settings)
    if not _paths(source):
        raise RecordError(f"INPUT={source} has no files in it. Name the file with your conversations.")


def run(settings: "LogsPrepSettings", job: "Job") -> None:
    """Write the interactions of the conversations in a file, or in all files of a folder."""
    lengths = Lengths(KINDS, measure_of(settings.model))
    writer, formats = InteractionWriter(lengths), Counter[str]()
    paths = _paths(_input(settings))
    output = settings.out_dir / OUTPUT
    names = (OUTPUT, REPORT, PICTURE)
    with Outputs([settings.out_dir / name for name in names], settings.force) as outputs:
        for path in paths:
            file_formats = Counter[str]()
            with Progress(f"{job.name} {path.name}", None) as advance:
                for conversation in read_conversations(path, settings.out_dir, file_formats):
                    writer.add(conversation, outputs[output])
                    advance(1)
            print(f"{path}: {', '.join(file_formats) or 'unknown format'}", flush=True)
            formats.update(file_formats)
        if not writer.rows.kept:
            print(f"supported formats: {', '.join(exports.FORMATS)} (with a conversation id)", flush=True)
        check_not_empty(writer.rows, f"INPUT={settings.input}")
        counts = {"rows": writer.rows, "interactions": writer.interactions}
        report: dict[str, Any] = {
            "job": job.name,
            "source": str(settings.input),
            "files": [path.name for path in paths],
            "forms": dict(formats),
            "seed": settings.seed,
            "counts": {name: tally.as_dict() for name, tally in counts.items()},
            "duplicates": writer.duplicates,
            "lengths": lengths.as_dict(),
        }
        finish(settings, outputs, report, lengths)


def _input(settings: "LogsPrepSettings") -> Path:
    if settings.input is None:
        raise SettingError("INPUT is not given. Name the file with your conversations, or a folder of such files.")
    return settings.input


def _paths(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    return sorted(path for path in source.rglob("*") if path.is_file() and not path.name.startswith("."))


def read_conversations(path: Path, scratch: Path, formats: Counter[str]) -> Iterator[Conversation | Dropped]:
    """Yield each conversation of a file, or the reason why a row is dropped; `formats` counts the rows per format.

    Each row is counted once: on its own, or in the `rows` of its conversation. `scratch` is a folder for a temporary
    file with the messages of the format with one message per line, which are grouped after the last row.
    """
    with _Lines(scratch) as lines:
        for number, row in enumerate(_rows(path)):
            format_name = exports.format_of(row) if isinstance(row, dict) else None
            if format_name is None:
                yield _located(row if isinstance(row, Dropped) else UNKNOWN, path, number)
                continue
            formats[format_name] += 1
            if format_name != exports.MESSAGES:
                yield _located(exports.conversation_of(row, format_name, f"{path.name}-{number}"), path, number)
            elif isinstance(line := exports.line_of(row), Dropped):
                yield _located(line, path, number)
            else:
                lines.add(line)
        for group in lines.groups():
            conversation = exports.conversation_of_lines(group)
            if isinstance(conversation, Dropped):
                yield from [conversation] * len(group)
            else:
                yield conversation


def _located(result: Conversation | Dropped, path: Path, number: int) -> Conversation | Dropped:
    return result._replace(where=f"{path.name}, row {number + 1}") if isinstance(result, Dropped) else result


def _rows(path: Path) -> Iterator[Any]:
    """Yield the rows of a JSON or CSV file; a bare list of messages becomes a row with `messages`."""
    if _is_csv(path):
        yield from _csv_rows(path)
        return
    for value in read_json(path):
        yield {"messages": value} if isinstance(value, list) else value


def _is_csv(path: Path) -> bool:
    """Return whether a file is CSV, judged by its first line: its name may be anything."""
    with open_text(path) as text:
        head = text.read(1 << 16).lstrip()
    return head[:1] not in ("", "{", "[") and _is_header(head.splitlines()[0])


def _is_header(line: str) -> bool:
    names = {_column_name(name) for name in line.split(_delimiter(line))}
    groups = (exports.CONVERSATION_NAMES, exports.ROLE_NAMES, exports.TEXT_NAMES)
    return all(names & set(group) for group in groups)


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _column_name(name: str) -> str:
    return "_".join(name.strip().strip('"').strip().lower().split())


def _csv_rows(path: Path) -> Iterator[dict | Dropped]:
    csv.field_size_limit(_LONGEST_FIELD)
    with open_text(path, newline="") as text:
        header = ""
        while not header.strip():
            header = text.readline()
        names = [_column_name(name) for name in next(csv.reader([header], delimiter=_delimiter(header)))]
        rows = csv.reader(text, delimiter=_delimiter(header))
        while True:
            try:
                fields = next(rows)
            except StopIteration:
                return
            except csv.Error:
                yield Dropped("not CSV")
                continue
            if len(fields) > len(names):
                yield Dropped("more fields than the header has")
            elif fields:
                yield dict(zip(names, fields, strict=False))


class _Lines:
    """Messages of the format with one message per line, by conversation, in an anonymous temporary file."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed in __exit__)
        self._offsets: dict[str, list[int]] = {}

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, line: Line) -> None:
        self._offsets.setdefault(line.conversation, []).append(self._file.tell())
        self._file.write(json.dumps(asdict(line)).encode() + b"\n")

    def groups(self) -> Iterator[list[Line]]:
        """Yield the lines of each conversation, in the order they were added."""
        for offsets in self._offsets.values():
            group = []
            for offset in offsets:
                self._file.seek(offset)
                fields = json.loads(self._file.readline())
                messages = fields["messages"]
                # As JSON, Dropped is a list of strings and messages are a list of pairs.
                fields["messages"] = (
                    Dropped(messages[0])
                    if isinstance(messages[0], str)
                    else [SourceMessage(*part) for part in messages]
                )
                group.append(Line(**fields))
            yield group
