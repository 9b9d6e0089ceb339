"""The styles of this room, and what users say: complaints of a style, praise, and unrelated follow-ups.

The wordings are data (`wordings.json`). A third of each group is held out: training never draws it.
"""

import json
from functools import cache
from types import MappingProxyType
from typing import Any

from sdpo.english import WORDINGS_FILE
from sdpo.errors import SettingError, nearest
from sdpo.text.prompts import PERSONAS
from sdpo.users.styles import OwnStyle

BRIEF_WORDS = 30

# Style -> what the persona says of itself.
STYLES: MappingProxyType[str, str] = MappingProxyType(
    {
        style: PERSONAS[style]
        for style in (
            "brief",
            "no_lists",
            "more_lists",
            "no_emojis",
            "exclamation",
            "no_first_person",
            "less_formatting",
            "more_formatting",
            "no_filler_followup",
            "less_filler_praise",
            "no_punctuation",
            "one_sentence",
            "spanish",
            "chinese",
        )
    }
)


def check_style(style: str) -> None:
    """Return for a style that this room can read. Raises SettingError with the nearest name for another."""
    if style not in STYLES:
        hint = nearest(style, STYLES)
        raise SettingError(f"STYLE {style} cannot be read in English.{hint} There are {', '.join(STYLES)}.")


def complaints(style: str, held_out: bool = False, own: OwnStyle | None = None) -> tuple[str, ...]:
    """Return what a user writes whose taste was missed. Raises SettingError for an unknown style.

    Of an own style none are held out, nor are of its praise.
    """
    if own is not None and own.complaints:
        return own.complaints
    check_style(style)
    return _part(_wordings()["complaints"][style], held_out)


def praise(held_out: bool = False, own: OwnStyle | None = None) -> tuple[str, ...]:
    """Return what a user writes who is content; the same for every style that has no praise of its own."""
    return own.praise if own is not None and own.praise else _part(_wordings()["praise"], held_out)


def unrelated(held_out: bool = False) -> tuple[str, ...]:
    """Return follow-ups that have nothing to do with any answer."""
    return _part(_wordings()["unrelated"], held_out)


def _part(group: dict[str, list[str]], held_out: bool) -> tuple[str, ...]:
    return tuple(group["held_out" if held_out else "train"])


@cache
def _wordings() -> dict[str, Any]:
    return json.loads(WORDINGS_FILE.read_text("utf-8"))
