"""The prep-logs job: detects the form of the user's own conversations and writes their interactions."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpo import progress
from sdpo.data.conversation import Conversation, Dropped, interactions
from sdpo.data.forms import Form, Piece, form_of, forms
from sdpo.data.inputs import FEEDBACK, Member, Source, ratings_of, rows_of, skip_reason, sources_of
from sdpo.data.messages import rating_of
from sdpo.data.output import Outputs
from sdpo.data.prepare import (
    BESIDE,
    KINDS,
    LOGS,
    InteractionWriter,
    check_not_empty,
    finish,
)
from sdpo.data.redact import Redactor
from sdpo.data.repeats import REPEATED, Spool
from sdpo.data.report import Lengths, measure_of
from sdpo.data.seen_hashes import SeenHashes
from sdpo.errors import RecordError, SettingError, on_one_line
from sdpo.text.records import Interaction

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import LogsPrepSettings

UNKNOWN = Dropped("a form that is not known")
NO_CONVERSATIONS = "no conversations"
_MOST_FIELDS = 8  # of a row of no known form that are named


@dataclass
class Counts:
    """What is counted beside rows and interactions: forms and decisions, skipped files, ratings, pictures."""

    forms: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    ratings: Counter[str] = field(default_factory=Counter)
    beside: int = 0


def run(settings: "LogsPrepSettings", job: "Job") -> None:
    """Write the interactions of the conversations in a file, or in all files of a folder or an archive."""
    lengths = Lengths(KINDS, measure_of(settings.model))
    writer, counts = InteractionWriter(lengths), Counts()
    redactor = Redactor(settings.redact, settings.redact_names, _key(settings.id_key))
    own = [settings.out_dir / name for name in (LOGS, *BESIDE)]
    with Outputs(own, settings.force) as outputs:
        sources = sources_of(input_of(settings), settings.out_dir, own)
        with Spool(settings.out_dir) as spool:
            _read_all(sources, settings, job, writer, counts, spool, redactor)
            _write_all(spool, writer, redactor, counts, outputs[settings.out_dir / LOGS])
        if not writer.rows.seen and counts.skipped:
            skipped = ", ".join(f"{count} {reason}" for reason, count in counts.skipped.items())
            raise RecordError(f"nothing in INPUT={settings.input} can be used (files skipped: {skipped}).")
        check_not_empty(writer.rows, f"INPUT={settings.input}", "" if counts.forms else known_forms())
        finish(settings, outputs, _report(settings, job, sources, writer, counts, redactor, lengths), lengths)


def _key(path: Path | None) -> bytes:
    if path is None:
        return b""
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise SettingError(f"ID_KEY={path} cannot be read: {error.strerror}.") from None
    if not key:
        raise SettingError(f"ID_KEY={path} is empty. Write a secret into it, such as `openssl rand -hex 32` prints.")
    return key


def _report(
    settings: "LogsPrepSettings",
    job: "Job",
    sources: list[Source],
    writer: InteractionWriter,
    counts: Counts,
    redactor: Redactor,
    lengths: Lengths,
) -> dict[str, Any]:
    tallies = {"rows": writer.rows, "interactions": writer.interactions}
    return {
        "job": job.name,
        "source": str(settings.input),
        "files": [source.name for source in sources],
        "skipped_files": dict(counts.skipped),
        "forms": dict(counts.forms),
        "notes": dict(counts.notes),
        "seed": settings.seed,
        "counts": {name: tally.as_dict() for name, tally in tallies.items()},
        "pictures_or_files_not_shown": counts.beside,
        "ratings": dict(counts.ratings),
        "redacted": redactor.report(),
        "duplicates": writer.duplicates,
        "lengths": lengths.as_dict(),
    }


def _read_all(
    sources: list[Source], settings: "LogsPrepSettings", job: "Job", writer: InteractionWriter, counts: Counts,
    spool: Spool, redactor: Redactor,
) -> None:  # fmt: skip
    """Read all files: conversations go to the spool, what is dropped and which files hold none is counted."""
    alone = len(sources) == 1
    ratings: dict[str, Any] = {}
    for source in sources:
        if source.name == FEEDBACK and not alone:
            ratings |= ratings_of(source)
    for source in sources:
        reason = reason_to_skip(source, alone)
        if reason is None:
            reason = _read(source, alone, settings, job, writer, counts, spool, ratings, redactor)
        if reason is not None:
            counts.skipped[reason] += 1
        if isinstance(source, Member):
            source.close()


def reason_to_skip(source: Source, alone: bool) -> str | None:
    """Return why a file is not read, None if it is. Raises RecordError if it is the only one."""
    reason = "ratings" if source.name == FEEDBACK and not alone else skip_reason(source)
    if reason is not None and alone:
        raise RecordError(
            f"{source} has no conversations that can be read: {reason}. Give JSON, CSV, parquet or a ZIP of these."
        )
    return reason


def _read(
    source: Source, alone: bool, settings: "LogsPrepSettings", job: "Job", writer: InteractionWriter, counts: Counts,
    spool: Spool, ratings: dict[str, Any], redactor: Redactor,
) -> str | None:  # fmt: skip
    """Read a file; return why it is skipped if there is nothing in it that could be a conversation."""
    found, others = Counter[str](), list[Dropped]()
    conversations = others_count = 0
    read = read_conversations(source, settings.out_dir, found)
    for result in progress.each(read, f"reading {source.name}", "conversations"):
        if isinstance(result, Conversation):
            conversations += 1
            counts.notes[result.note] += bool(result.note)
            spool.add(_rated(result, ratings) if ratings else result)
        elif result.reason == UNKNOWN.reason:
            others += [result] if not others else []
            others_count += 1
        else:
            conversations += 1
            writer.rows.drop(result.reason, where=redactor.words(result.where))
    counts.notes = +counts.notes
    counts.forms.update(found)
    print(f"{source}: {', '.join(found) or 'no conversations'}", flush=True)
    if not conversations and not found and not alone:
        return NO_CONVERSATIONS
    if others:
        writer.rows.drop(UNKNOWN.reason, others_count, where=redactor.words(others[0].where))
    return None


def _write_all(spool: Spool, writer: InteractionWriter, redactor: Redactor, counts: Counts, file: Any) -> None:
    """Write each interaction once, without what is private, and count ratings and what was beside the texts."""
    ids, again = SeenHashes(), dict[str, int]()
    for spooled in progress.each(spool.conversations(), "writing", "conversations"):
        shown = spooled.conversation
        if spooled.has_new:
            shown = redactor.conversation(shown)
            shown.id = _unique(shown.id, ids, again)
        results: list[Interaction | Dropped] = []
        for one in interactions(shown):
            if isinstance(one, Interaction) and one.turn_id in spooled.repeated:
                results.append(REPEATED)
            elif isinstance(one, Interaction) and one.turn_id in spooled.known:
                results.append(replace(one, **spooled.known[one.turn_id]))
            else:
                results.append(one)
        kept = writer.write(shown, results, file)
        counts.ratings.update(_shown_rating(one.rating) for one in kept if one.rating is not None)
        counts.beside += sum(message.beside for message in shown.messages) if kept else 0


def _unique(name: str, ids: SeenHashes, again: dict[str, int]) -> str:
    """Return a conversation's id, with a number if an earlier conversation has it."""
    if ids.add(hash(name)):
        return name
    number = again.get(name, 1) + 1
    while not ids.add(hash(f"{name}~{number}")):
        number += 1
    again[name] = number
    return f"{name}~{number}"


def _rated(conversation: Conversation, ratings: dict[str, Any]) -> Conversation:
    """Return the conversation with the ratings that a file beside it holds."""
    conversation.messages = [
        message._replace(rating=rating_of(ratings[message.id])) if message.id in ratings else message
        for message in conversation.messages
    ]
    return conversation


def _shown_rating(rating: float) -> str:
    return {1.0: "thumbs up", -1.0: "thumbs down"}.get(rating, f"{rating:g}")


def input_of(settings: "LogsPrepSettings") -> Path:
    """Return INPUT. Raises SettingError if it is not set."""
    if settings.input is None:
        raise SettingError("INPUT is not given. Name the file with your conversations, or a folder of such files.")
    return settings.input


def known_forms() -> str:
    """Return a sentence on the forms that are read, for errors."""
    return (
        'Rows with "messages" (each with role and content), rows with a question and an answer, and the exports of '
        f"ChatGPT, Claude, Open WebUI, Langfuse and others are known, {len(forms())} forms in all: docs/guides/data.md."
    )


def unknown(row: Any, where: str) -> Dropped:
    """Return the reason for a row of no known form, with the fields that it has."""
    if not isinstance(row, dict) or not row:
        return UNKNOWN._replace(where=f"{where}, which has no fields")
    more = ", …" if len(row) > _MOST_FIELDS else ""
    held = ", ".join(map(str, list(row)[:_MOST_FIELDS])) + more
    return UNKNOWN._replace(where=on_one_line(f"{where}, with the fields {held}", 300))


def read_conversations(source: Source, scratch: Path, found: Counter[str]) -> Iterator[Conversation | Dropped]:
    """Yield each conversation of a file, or the reason why a row is dropped; `found` counts the rows per form.

    Each row is counted once: on its own, or in the `rows` of its conversation. `scratch` is a folder for a temporary
    file with the pieces of conversations, which are joined after the last row.
    """
    readable = source.name.encode(errors="replace").decode()  # a file's name may be no UTF-8
    with _Pieces(scratch) as pieces:
        for number, row in enumerate(rows_of(source)):
            where = f"{readable}, row {number + 1}"
            form = form_of(row) if isinstance(row, dict) else None
            if form is None:
                yield row._replace(where=where) if isinstance(row, Dropped) else unknown(row, where)
                continue
            found[form.name] += 1
            result = form.read(row, f"{readable}-{number}")
            if isinstance(result, Dropped):
                yield result._replace(where=f"{where}: {result.where}" if result.where else where)
            elif isinstance(result, Piece):
                pieces.add(form, result, where)
            else:
                yield result
        for form, group in pieces.groups():
            assert form.join is not None
            yield from form.join(group)


class _Pieces:
    """The pieces of conversations, by form and key, in an anonymous temporary file."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed in __exit__)
        self._offsets: dict[tuple[str, str], list[int]] = {}
        self._forms: dict[str, Form] = {}

    def __enter__(self) -> "_Pieces":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, form: Form, piece: Piece, where: str) -> None:
        self._forms[form.name] = form
        self._offsets.setdefault((form.name, piece.key), []).append(self._file.tell())
        self._file.write(json.dumps({**asdict(piece), "where": where}).encode() + b"\n")

    def groups(self) -> Iterator[tuple[Form, list[Piece]]]:
        """Yield the pieces of each key, in the order they were added."""
        for (name, _), offsets in self._offsets.items():
            group = []
            for offset in offsets:
                self._file.seek(offset)
                group.append(Piece(**json.loads(self._file.readline())))
            yield self._forms[name], group
