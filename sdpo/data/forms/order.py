"""The order of the rows that form a conversation: by their position, then by their time, then as in the file."""

from itertools import pairwise

from sdpo.data.columns import ORDER_NAMES, TIME_NAMES
from sdpo.data.conversation import Dropped
from sdpo.data.forms import Piece
from sdpo.data.messages import first
from sdpo.data.times import moment, position


def place_of(row: dict) -> dict[str, float | str | None]:
    """Return where a row belongs in its conversation, for `in_order`; `unread` is a column that cannot be read."""
    order, when = first(row, ORDER_NAMES), first(row, TIME_NAMES)
    at, numbered = position(order), order is not None
    if at is None:
        at = moment(order if numbered else when)
    unread = "" if at is not None or (order is None and when is None) else shown(row, ORDER_NAMES + TIME_NAMES)
    return {"at": at, "then": moment(when) if numbered else None, "unread": unread, "numbered": numbered}


def shown(row: dict, columns: tuple[str, ...], names: bool = False) -> str:
    """Return the first column that is not empty and its value, shortened.

    If it may hold `names` of persons, a value of several words or with a capital is not shown.
    """
    column = next((one for one in columns if row.get(one) not in (None, "")), columns[0])
    value = str(row.get(column))
    if names and (value != value.lower() or len(value.split()) > 1):
        return column
    return f"{column} {value[:40]!r}"


def in_order(pieces: list[Piece]) -> list[Piece] | Dropped:
    """Return the pieces in the order of the conversation, or why it is not known.

    Without positions and times they stay as in the file. Those of one position and time stay so too, unless the file
    begins with the latest.
    """
    unread = next((piece for piece in pieces if piece.value["unread"]), None)
    if unread is not None:
        return Dropped("an order or time that cannot be read", f"{unread.where}: {unread.value['unread']}")
    known = [piece.value["at"] is not None for piece in pieces]
    if not all(known):
        missing = pieces[known.index(False)]
        return Dropped("some of its messages have no order or time", missing.where) if any(known) else pieces
    timed = all(piece.value["then"] is not None for piece in pieces)

    def key(piece: Piece) -> tuple[float, float]:
        return piece.value["at"], piece.value["then"] if timed else 0.0

    keys = [key(piece) for piece in pieces]
    # Rows of one turn, the question first, stand as they were said even if the latest turn is the first.
    roles = [piece.value["messages"][0][0] for piece in pieces[:2] if piece.value["messages"]]
    said = keys[:1] == keys[1:2] and roles == ["user", "assistant"] and not timed and pieces[0].value["numbered"]
    falls = sum((before > after) - (before < after) for before, after in pairwise(keys))
    return sorted(pieces[::-1] if falls > 0 and not said else pieces, key=key)
