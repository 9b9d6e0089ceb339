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

from sdpo.data.conversation import Conversation, Dropped, SourceMessage, interactions, rated_end
from sdpo.data.seen_hashes import SeenHashes, full_disk_as_os_error
from sdpo.text.records import Interaction

REPEATED = Dropped("repeats what a longer or earlier conversation holds")


@dataclass(frozen=True)
class Spooled:
    """A conversation, which of its turns others hold, and the ratings that others hold of its turns.

    `has_new` is whether it has an interaction that is its own.
    """

    conversation: Conversation
    repeated: set[int]
    ratings: dict[int, float]
    has_new: bool


class Spool:
    """Conversations in a file without a name, and which of them each interaction belongs to."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed in __exit__)
        self._count = 0
        self._database = sqlite3.connect("", isolation_level=None)
        owners = "CREATE TABLE owners (hash INTEGER PRIMARY KEY, length INTEGER, owner INTEGER, said INTEGER)"
        ratings = "CREATE TABLE ratings (hash INTEGER PRIMARY KEY, rating REAL)"
        for statement in ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", owners, ratings, "BEGIN"):
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
        end = rated_end(conversation)
        rated = [(hash((_rated_in(conversation), *end[:2])), end[2])] if end else []
        with full_disk_as_os_error():
            self._database.executemany(
                "INSERT INTO owners VALUES (?, ?, ?, ?) ON CONFLICT (hash) DO UPDATE SET length = excluded.length, "
                "owner = excluded.owner, said = excluded.said WHERE excluded.length > owners.length",
                rows,
            )
            self._database.executemany("INSERT OR REPLACE INTO ratings VALUES (?, ?)", rated)

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
            repeated, ratings, has_new = set[int](), dict[int, float](), False
            for one in interactions(conversation):
                if not isinstance(one, Interaction):
                    continue
                owner, owner_said = self._owner(_key(one))
                if again or (owner != number and owner_said != said):
                    repeated.add(one.turn_id)
                else:
                    has_new = True
                if one.rating is None and (rating := self._rating(one, conversation)) is not None:
                    ratings[one.turn_id] = rating
            yield Spooled(conversation, repeated, ratings, has_new)

    def _owner(self, key: int) -> tuple[int, int]:
        return self._database.execute("SELECT owner, said FROM owners WHERE hash = ?", (key,)).fetchone()

    def _rating(self, interaction: Interaction, conversation: Conversation) -> float | None:
        """Return the rating of this answer in a conversation that ended with it."""
        key = hash((_rated_in(conversation), _texts(interaction), interaction.completion))
        found = self._database.execute("SELECT rating FROM ratings WHERE hash = ?", (key,)).fetchone()
        return found[0] if found else None


def _rated_in(conversation: Conversation) -> str | None:
    """Return where a rating of an answer holds: in logs each request has its own id, so it holds in all of them."""
    return None if conversation.logged else conversation.id


def _said(conversation: Conversation) -> int:
    """Return a hash of all that user and assistant said."""
    return hash(tuple((one.role, one.text) for one in conversation.messages if one.role != "system"))


def _key(interaction: Interaction) -> int:
    """Return a hash of what was said; a system text is not part of it, as it may name the time of the request."""
    return hash((_texts(interaction), interaction.completion, interaction.user_response))


def _texts(interaction: Interaction) -> tuple[str, ...]:
    return tuple(message["content"] for message in interaction.prompt if message["role"] != "system")
