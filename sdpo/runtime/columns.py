"""Texts side by side on a terminal, and texts cut to a width."""

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from itertools import zip_longest

_LINES = 12  # of an answer
_WIDEST = 120


def side_by_side(rows: Iterable[tuple[str, str, str]], heads: tuple[str, str] = ("before", "after")) -> str:
    """Return rows of a prompt and two answers to it, the answers in two columns that fill the terminal's width."""
    columns = min(shutil.get_terminal_size((_WIDEST, 24)).columns or _WIDEST, _WIDEST)
    width = max(12, (columns - 3) // 2)
    blocks = []
    for prompt, *answers in rows:
        texts = [wrapped(answer, width, _LINES) for answer in answers]
        lines = [f"{left:{width}} | {right}".rstrip() for left, right in zip_longest(*texts, fillvalue="")]
        shown = cut(" ".join(prompt.split()), 2 * width + 1)
        blocks.append("\n".join([f"> {shown}", f"{heads[0]:{width}} | {heads[1]}", *lines]))
    return "\n\n".join(blocks)


def spread(rows: Sequence[tuple[str, str, str]], count: int = 3) -> list[tuple[str, str, str]]:
    """Return `count` of the rows, spread evenly over all of them."""
    count = min(count, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]


def wrapped(text: str, width: int, lines: int) -> list[str]:
    """Return the text in lines of at most `width` characters, cut to `lines` lines with an ellipsis."""
    found = [line for part in text.splitlines() for line in textwrap.wrap(part, width) or [""]]
    return found if len(found) <= lines else [*found[: lines - 1], "…"]


def cut(text: str, length: int) -> str:
    """Return the text, cut to `length` characters with an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"
