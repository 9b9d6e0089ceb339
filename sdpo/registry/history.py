"""The history of the live pointer: every move, in an append-only file, and what was live before the last one.

A move is written here before the pointer moves, with a number that the pointer then has. A process that was killed in
between leaves a move whose number the pointer never got: it did not happen.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from sdpo.registry.live import Live

FILE = "history.jsonl"
PROMOTE, ROLLBACK, CANARY, END_CANARY = "promote", "rollback", "canary", "end of canary"


@dataclass(frozen=True)
class Move:
    """A move of the pointer: `before` and `after` are the versions that were live, `canary` the candidate."""

    number: int
    action: str
    before: str | None
    after: str | None
    canary: str | None
    at: str
    reason: str = ""


def read_moves(registry: Path, live: Live) -> list[Move]:
    """Return the moves that happened, in order. A last line that was cut off is left out, as is a move without effect.

    The pointer's number is that of the last move that happened.
    """
    try:
        lines = (registry / FILE).read_text("utf-8").split("\n")
    except FileNotFoundError:
        return []
    moves: dict[int, Move] = {}
    for line in lines:
        try:
            move = Move(**json.loads(line)) if line else None
        except (ValueError, TypeError):
            continue  # half a line, of a process that was killed
        if move is not None and move.number <= live.move:
            moves[move.number] = move  # a number is given again only if its first move did not happen
    return list(moves.values())


def append_move(registry: Path, move: Move) -> None:
    """Write a move through to the disk, on a line of its own even after half a line."""
    path = registry / FILE
    content = path.read_bytes() if path.exists() else b""
    start = b"" if not content or content.endswith(b"\n") else b"\n"
    with path.open("ab") as file:
        file.write(start + json.dumps(asdict(move), ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def former(moves: list[Move]) -> list[str | None]:
    """Return what was live before, the last one last; the base model is None. A version taken back is not among them.

    Each promotion remembers what it replaced, and each rollback goes back by one.
    """
    stack: list[str | None] = []
    for move in moves:
        if move.action == PROMOTE and move.after != move.before:
            stack.append(move.before)
        elif move.action == ROLLBACK and move.after in stack:
            while stack.pop() != move.after:
                pass
    return stack
