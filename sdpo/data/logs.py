"""The preparation of people's own conversations: which form they are in, and what is read from them."""

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
from sdpo.data.documents import open_text, read_json
from sdpo.data.exports import Line
from sdpo.data.output import Outputs
from sdpo.data.prepare import KINDS, PICTURE, REPORT, InteractionWriter, Progress, check_place, finish, refuse_nothing
from sdpo.data.report import Lengths, measure_of
from sdpo.errors import RecordError, SettingError

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import LogsPrepSettings

OUTPUT = "logs_interactions.jsonl"
UNKNOWN = Dropped("a form that is not known")
_LONGEST_FIELD = 1 << 28  # characters in one field of a CSV file


def check(settings: "LogsPrepSettings", job: "Job") -> None:
    """Check whatever can be checked without reading. Raises SdpoError on the first fault."""
    check_place(settings, (OUTPUT, REPORT, PICTURE))
    if settings.input is None:
        raise SettingError("INPUT is not given. Name the file with your conversations, or a folder of such files.")
    if not _paths(settings.input):
        raise RecordError(f"INPUT={settings.input} has no files in it. Name the file with your conversations.")


def run(settings: "LogsPrepSettings", job: "Job") -> None:
    """Write the interactions of the conversations in a file, or in each file of a folder."""
    lengths = Lengths(KINDS, measure_of(settings.model))
    writer, forms = InteractionWriter(lengths), Counter()
    paths = _paths(settings.input)
    output = settings.out_dir / OUTPUT
    names = (OUTPUT, REPORT, PICTURE)
    with Outputs([settings.out_dir / name for name in names], settings.force) as outputs:
        for path in paths:
            found: Counter[str] = Counter()
            with Progress(f"{job.name} {path.name}", None) as advance:
                for conversation in read_conversations(path, settings.out_dir, found):
                    writer.add(conversation, outputs[output])
                    advance(1)
            print(f"{path}: {', '.join(found) or 'no form that is known'}", flush=True)
            forms.update(found)
        if not writer.rows.kept:
            print(f"read are: {', '.join(exports.FORMS)} (with a conversation id)", flush=True)
        refuse_nothing(writer.rows, f"INPUT={settings.input}")
        counts = {"rows": writer.rows, "interactions": writer.interactions}
        report: dict[str, Any] = {
            "job": job.name,
            "source": str(settings.input),
            "files": [path.name for path in paths],
            "forms": dict(forms),
            "seed": settings.seed,
            "counts": {name: tally.as_dict() for name, tally in counts.items()},
            "duplicates": writer.duplicates,
            "lengths": lengths.as_dict(),
        }
        finish(settings, outputs, report, lengths)


def _paths(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return sorted(path for path in place.rglob("*") if path.is_file() and not path.name.startswith("."))


def read_conversations(path: Path, scratch: Path, forms: Counter[str]) -> Iterator[Conversation | Dropped]:
    """Yield each conversation of a file, or why a row of it is none; `forms` counts the rows of each form.

    A row counts once: on its own, or among the `rows` of its conversation. `scratch` is a folder with space for
    messages that are lines of their own until all of them have been seen.
    """
    with _Lines(scratch) as lines:
        for number, row in enumerate(_rows(path)):
            form = exports.form_of(row) if isinstance(row, dict) else None
            if form is None:
                yield _placed(row if isinstance(row, Dropped) else UNKNOWN, path, number)
                continue
            forms[form] += 1
            if form != exports.MESSAGES:
                yield _placed(exports.conversation_of(row, form, f"{path.name}-{number}"), path, number)
            elif isinstance(line := exports.line_of(row), Dropped):
                yield _placed(line, path, number)
            else:
                lines.add(line)
        for group in lines.groups():
            conversation = exports.conversation_of_lines(group)
            if isinstance(conversation, Dropped):
                yield from [conversation] * len(group)
            else:
                yield conversation


def _placed(found: Conversation | Dropped, path: Path, number: int) -> Conversation | Dropped:
    return found._replace(where=f"{path.name}, row {number + 1}") if isinstance(found, Dropped) else found


def _rows(path: Path) -> Iterator[Any]:
    """Yield the rows of a JSON or CSV file; a list of messages without anything around it is a conversation too."""
    if _is_csv(path):
        yield from _csv_rows(path)
        return
    for value in read_json(path):
        yield {"messages": value} if isinstance(value, list) else value


def _is_csv(path: Path) -> bool:
    """Return whether a file is a table: not by its name, which may be anything, but by what it begins with."""
    with open_text(path) as text:
        head = text.read(1 << 16).lstrip()
    return head[:1] not in ("", "{", "[") and _is_header(head.splitlines()[0])


def _is_header(line: str) -> bool:
    names = {_plain(name) for name in line.split(_delimiter(line))}
    groups = (exports.CONVERSATION_NAMES, exports.ROLE_NAMES, exports.TEXT_NAMES)
    return all(names & set(group) for group in groups)


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _plain(name: str) -> str:
    return "_".join(name.strip().strip('"').strip().lower().split())


def _csv_rows(path: Path) -> Iterator[dict | Dropped]:
    csv.field_size_limit(_LONGEST_FIELD)
    with open_text(path, newline="") as text:
        header = ""
        while not header.strip():
            header = text.readline()
        names = [_plain(name) for name in next(csv.reader([header], delimiter=_delimiter(header)))]
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
    """Messages that are lines of their own, grouped by conversation; their texts wait on the disk, without a name."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by the block)
        self._places: dict[str, list[int]] = {}

    def __enter__(self) -> "_Lines":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, line: Line) -> None:
        self._places.setdefault(line.conversation, []).append(self._file.tell())
        self._file.write(json.dumps(asdict(line)).encode() + b"\n")

    def groups(self) -> Iterator[list[Line]]:
        """Yield the lines of each conversation, as they came."""
        for places in self._places.values():
            group = []
            for place in places:
                self._file.seek(place)
                fields = json.loads(self._file.readline())
                messages = fields["messages"]
                # A reason is a list of one text, messages are a list of pairs.
                fields["messages"] = (
                    Dropped(messages[0])
                    if isinstance(messages[0], str)
                    else [SourceMessage(*part) for part in messages]
                )
                group.append(Line(**fields))
            yield group
