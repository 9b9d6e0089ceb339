"""Trees of messages as in OpenAssistant's data: rows with a parent's id, or one nested tree per row."""

from collections.abc import Iterator
from typing import Any

from sdpo.data.conversation import Conversation, Dropped, SourceMessage
from sdpo.data.forms import Form, Piece
from sdpo.data.messages import id_of, read_message
from sdpo.data.shapes import BROKEN
from sdpo.data.times import time_of

RANKED, LONGEST = "trees: the best-ranked path", "trees: the longest path"


def _matches(row: dict) -> bool:
    nested = "message_tree_id" in row and isinstance(row.get("prompt"), dict)
    return nested or ("message_id" in row and "parent_id" in row and "role" in row)


def _read(row: dict, name: str) -> Conversation | Dropped | Piece:
    if isinstance(row.get("prompt"), dict):
        nodes: dict[str, dict] = {}
        waiting: list[tuple[dict, str | None]] = [(row["prompt"], None)]
        while waiting:
            node, parent = waiting.pop(0)
            number = f"{len(nodes)}"
            nodes[number] = {**_node(node), "parent": parent}
            replies = node.get("replies")
            waiting += [
                (reply, number) for reply in (replies if isinstance(replies, list) else []) if isinstance(reply, dict)
            ]
        return _path(id_of(row, "message_tree_id") or name, nodes, 1)
    key = id_of(row, "message_id")
    if key is None:
        return Dropped("no id of the message")
    parent = id_of(row, "parent_id")
    tree = id_of(row, "message_tree_id", "conversation_id") or "tree"
    return Piece(tree, {**_node(row), "id": key, "parent": parent})


def _node(row: dict) -> dict[str, Any]:
    """Return what is kept of a message: its text as read, its rank and its time."""
    read = read_message(row)
    gone = row.get("deleted") is True
    rank = row.get("rank")
    ranked = isinstance(rank, int | float) and not isinstance(rank, bool) and rank == rank
    return {
        "messages": [] if isinstance(read, Dropped) or gone else [list(one) for one in read],
        "fault": read.reason if isinstance(read, Dropped) else "",
        "rank": rank if ranked else None,
        "time": time_of(row.get("created_date")),
    }


def _join(pieces: list[Piece]) -> Iterator[Conversation | Dropped]:
    nodes = {piece.value["id"]: piece.value for piece in pieces}
    if len(nodes) != len(pieces):
        yield from [BROKEN] * len(pieces)
        return
    result = _path(pieces[0].key, nodes, len(pieces))
    yield from [result] * (len(pieces) if isinstance(result, Dropped) else 1)


def _path(name: str, nodes: dict[str, dict], rows: int) -> Conversation | Dropped:
    """Return the conversation along the best-ranked answers that were replied to; without ranks the longest path."""
    children: dict[str | None, list[str]] = {}
    for key, node in nodes.items():
        children.setdefault(node["parent"] if node["parent"] in nodes else None, []).append(key)
    depths = _depths(children)
    if len(depths) != len(nodes):
        return BROKEN
    messages: list[SourceMessage] = []
    note, when = LONGEST, None
    below = children.get(None, [])
    while below:
        options = [one for one in below if depths[one] > 0] or below
        ranked = [one for one in options if nodes[one]["rank"] is not None]
        if ranked:
            key, note = min(ranked, key=lambda one: nodes[one]["rank"]), RANKED
        else:
            key = max(options, key=lambda one: depths[one])
        if nodes[key]["fault"]:
            return Dropped(nodes[key]["fault"])
        messages += [SourceMessage(*one) for one in nodes[key]["messages"]]
        when = when or nodes[key]["time"]
        below = children.get(key, [])
    return Conversation(name, messages, None, when, rows, note) if messages else Dropped("no messages")


def _depths(children: dict[str | None, list[str]]) -> dict[str, int]:
    """Return how many messages follow each one on its longest path; messages in a circle are not in it."""
    order: list[str] = []
    waiting = list(children.get(None, []))
    while waiting:
        key = waiting.pop()
        order.append(key)
        waiting += children.get(key, [])
    depths: dict[str, int] = {}
    for key in reversed(order):
        depths[key] = max((depths[child] + 1 for child in children.get(key, [])), default=0)
    return depths


FORM = Form("OASST trees", _matches, _read, _join)
