"""Writes conversations of the store to a file that `make prep-logs` reads."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from sdpo.gateway.conversations import StoredConversation
from sdpo.gateway.store import Store
from sdpo.runtime.files import replacing

FILE = "conversations.jsonl"


def row_of(conversation: StoredConversation) -> dict:
    """Return a conversation as an object of the export."""
    messages = [dict(message) for message in conversation.messages]
    for rating in conversation.ratings:
        messages[rating["message"]]["rating"] = rating["rating"]
    for index in conversation.unfinished:
        messages[index]["finished"] = False
    answered = [version for version in conversation.versions if version]
    return {
        "id": conversation.id,
        "user": conversation.user,
        "model": answered[-1] if answered else None,
        "timestamp": datetime.fromtimestamp(conversation.started_at, UTC).isoformat(),
        "messages": messages,
    }


def write_conversations(
    store: Store,
    path: Path,
    only_unused: bool = False,
    row: Callable[[StoredConversation], dict] = row_of,
) -> int:
    """Write the conversations as JSON lines and return how many they are. The file is replaced when it is complete.

    A line has `id`, `user`, `timestamp`, `model` and `messages` in OpenAI's form, answers with their `rating` and with
    `"finished": false` if they were truncated or broken off, or what `row` returns.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with replacing(path, permissions=0o600) as file:
        for conversation in store.conversations(only_unused=only_unused):
            file.write(json.dumps(row(conversation)).encode() + b"\n")
            count += 1
    return count
