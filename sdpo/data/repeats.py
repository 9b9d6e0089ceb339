"""Conversations on their way to the output, on disk: an interaction that several of them hold is written once.

Each request to a model's interface repeats the conversation so far, so a log of requests holds the same interaction
many times. It belongs to the longest conversation that holds it, of equally long ones to the first. Conversations of
the same words and different ids are kept, as two people may say the same.
"""

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdpo.data.conversation import Conversation, Dropped, SourceMessage, end_of, interactions
from sdpo.data.seen_hashes import SeenHashes, full_disk_as_os_error
from sdpo.text.records import Interaction

REPEATED = Dropped("repeats what a longer or earlier conversation holds")


@dataclass(frozen=True)
class Spooled:
    """A conversation, which of its turns others hold, and fields of its answers that others know: `rating`, `finished`.

    `has_new` is whether it has an interaction that is its own.
    """

    conversation: Conversation
    repeated: set[int]
    known: dict[int, dict[str, Any]]
    has_new: bool


class Spool:
    """Conversations in a file without a name, and which of them each interaction belongs to."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed in __exit__)
        self._count = 0
        self._database = sqlite3.connect("", isolation_level=None)
        owners = "CREATE TABLE owners (hash INTEGER PRIMARY KEY, length INTEGER, owner INTEGER, said INTEGER)"
        ends = "CREATE TABLE ends (hash INTEGER PRIMARY KEY, rating REAL, finished INTEGER)"
        for statement in ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", owners, ends, "BEGIN"):
            self._database.execute(statement)

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._database.close()

    def add(self, conversation: Conversation) -> None:
        """Keep a conversation for later. Raises OSError if the disk is full."""
        self._file.write(json.dumps(asdict(conversation)).encode() + b"\n")
        length = sum(bool(message.text) for message in conversation.messages)
        owner, self._count = self._count, self._count + 1
        said = _said(conversation)
        rows = [(_key(one), length, owner, said) for one in interactions(conversation) if isinstance(one, Interaction)]
        end = end_of(conversation)
        ends = [(hash((_known_in(conversation), *end[:2])), end.rating, end.finished)] if end else []
        with full_disk_as_os_error():
            self._database.executemany(
                "INSERT INTO owners VALUES (?, ?, ?, ?) ON CONFLICT (hash) DO UPDATE SET length = excluded.length, "
                "owner = excluded.owner, said = excluded.said WHERE excluded.length > owners.length",
                rows,
            )
            self._database.executemany("INSERT OR REPLACE INTO ends VALUES (?, ?, ?)", ends)

    def conversations(self) -> Iterator[Spooled]:
        """Yield each conversation in the order in which they were added."""
        self._file.seek(0)
        named = SeenHashes()
        for number, line in enumerate(self._file):
            fields = json.loads(line)
            fields["messages"] = [SourceMessage(*message) for message in fields["messages"]]
            conversation = Conversation(**fields)
            said = _said(conversation)
            # Two conversations of the same words are two if their ids say so.
            again = not named.add(hash((conversation.id, said)))
            repeated, known, has_new = set[int](), dict[int, dict[str, Any]](), False
            for one in interactions(conversation):
                if not isinstance(one, Interaction):
                    continue
                owner, owner_said = self._owner(_key(one))
                if again or (owner != number and owner_said != said):
                    repeated.add(one.turn_id)
                else:
                    has_new = True
                if beside := self._known(one, conversation):
                    known[one.turn_id] = beside
            yield Spooled(conversation, repeated, known, has_new)

    def _owner(self, key: int) -> tuple[int, int]:
        return self._database.execute("SELECT owner, said FROM owners WHERE hash = ?", (key,)).fetchone()

    def _known(self, interaction: Interaction, conversation: Conversation) -> dict[str, Any]:
        """Return the fields of this answer that a conversation knew which ended with it."""
        key = hash((_known_in(conversation), _texts(interaction), interaction.completion))
        found = self._database.execute("SELECT rating, finished FROM ends WHERE hash = ?", (key,)).fetchone()
        rating, finished = found or (None, 1)
        fields: dict[str, Any] = {"rating": rating} if interaction.rating is None and rating is not None else {}
        return fields if finished else fields | {"finished": False}


def _known_in(conversation: Conversation) -> str | None:
    """Return where it holds what is known of an answer: in logs, where each request has its own id, in all of them."""
    return None if conversation.logged else conversation.id


def _said(conversation: Conversation) -> int:
    """Return a hash of all that user and assistant said."""
    return hash(tuple((one.role, one.text) for one in conversation.messages if one.role != "system"))


def _key(interaction: Interaction) -> int:
    """Return a hash of what was said; a system text is not part of it, as it may name the time of the request."""
    return hash((_texts(interaction), interaction.completion, interaction.user_response))


def _texts(interaction: Interaction) -> tuple[str, ...]:
    return tuple(message["content"] for message in interaction.prompt if message["role"] != "system")
