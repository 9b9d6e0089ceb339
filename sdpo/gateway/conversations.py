"""Puts the exchanges of a conversation together: each path of messages from the first request to a last answer."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdpo.gateway.answer import messages_of
from sdpo.gateway.exchanges import BROKEN

BRANCH = "~"  # between the id of a conversation and the number of a branch beside its newest one


def conversation_of(name: str) -> str:
    """Return the id of the conversation that a branch belongs to."""
    head, mark, number = name.rpartition(BRANCH)
    return head if mark and number.isdigit() else name


@dataclass(frozen=True)
class StoredConversation:
    """A conversation of the store, from the first message to the last answer, in OpenAI's form.

    `ratings` are `{"message": index, "rating": 1 or -1, "comment": text or None}`. `versions` has the registry's
    version that gave each assistant message in order, "" for the base model, None for a message that only the client
    sent, such as a greeting or an example. `unfinished` are the indices of answers that were truncated or broken off. A
    branch that was left, because a message was edited or an answer regenerated, is a conversation of its own: its id
    ends with ~2, ~3 and so on.
    """

    id: str
    user: str
    started_at: float
    updated_at: float
    messages: list[dict[str, Any]]
    ratings: list[dict[str, Any]]
    versions: list[str | None]
    unfinished: list[int]


@dataclass(frozen=True)
class Path:
    """A path of exchanges from a root to a leaf: `rows` are rows of EXCHANGES with their `answers` decoded."""

    rows: list[Mapping[str, Any]]

    def messages(self) -> Iterator[tuple[dict[str, Any], Mapping[str, Any] | None]]:
        """Yield each message with the exchange whose answer it is, None for those that a client sent."""
        yield from ((message, None) for message in json.loads(self.rows[0]["system"] or "[]"))
        for row in self.rows:
            yield from ((message, None) for message in json.loads(row["messages"]))
            answers = json.loads(row["answers"] or "[]")
            if answers:
                yield answers[0], row


def with_pieces(row: Mapping[str, Any], pieces: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return an exchange's row; of one that is still open, or was killed, the answer is what its pieces amount to."""
    row = dict(row)
    if row["answers"] is None and pieces:
        channels: dict[str, str] = {}
        for piece in sorted(pieces, key=lambda piece: piece["number"]):
            channels[piece["channel"]] = channels.get(piece["channel"], "") + json.loads(piece["text"])
        row["answers"] = json.dumps(messages_of(channels))
    return row


def paths(rows: Iterable[Mapping[str, Any]]) -> list[Path]:
    """Return the paths of a conversation's exchanges, the one that was last continued first.

    An exchange without an answer is left out. A leaf that nothing followed, beside a sibling that was gone on with or
    came later, adds nothing that a user reacted to; it is a path of its own nevertheless, so that nothing is lost.
    """
    known = {row["id"]: row for row in rows if row["answers"] not in (None, "[]")}
    parents = {row["parent"] for row in known.values()}
    leaves = [row for row in known.values() if row["id"] not in parents]
    leaves.sort(key=lambda row: (row["started_at"], row["id"]), reverse=True)
    return [Path(_to_root(leaf, known)) for leaf in leaves]


def _to_root(leaf: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    path, row, seen = [leaf], leaf, {leaf["id"]}
    while row["parent"] in known and row["parent"] not in seen:
        row = known[row["parent"]]
        seen.add(row["id"])
        path.append(row)
    return path[::-1]


def stored(name: str, path: Path, ratings: Mapping[str, Mapping[str, Any]]) -> StoredConversation:
    """Return the conversation of a path; `ratings` has the newest rating of each exchange."""
    messages, versions, rated, unfinished = [], [], [], []
    for index, (message, row) in enumerate(path.messages()):
        messages.append(message)
        if message.get("role") == "assistant":
            versions.append(row["version"] if row else None)
        if row and (row["state"] == BROKEN or row["finish_reason"] == "length"):
            unfinished.append(index)
        rating = ratings.get(row["id"]) if row else None
        if rating:
            comment = json.loads(rating["comment"]) if rating["comment"] else None
            rated.append({"message": index, "rating": rating["rating"], "comment": comment})
    last = path.rows[-1]
    return StoredConversation(
        id=name,
        user=last["user"],
        started_at=path.rows[0]["started_at"],
        updated_at=max(row["finished_at"] or row["started_at"] for row in path.rows),
        messages=messages,
        ratings=rated,
        versions=versions,
        unfinished=unfinished,
    )
