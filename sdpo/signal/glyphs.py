"""Text for figures: characters that the font lacks, or that are not one column wide, are replaced by code points."""

import unicodedata
from functools import cache

# Visible signs for whitespace.
_SHOWN = {"\n": "⏎", "\t": "⇥", " ": "·"}
# Bidirectional classes that are drawn left to right: other letters join, stack or run right to left.
_LEFT_TO_RIGHT = {"L", "EN", "ES", "ET", "AN", "CS", "ON", "S", "WS", "B", ""}


def figure_text(text: str, spaces: bool = False) -> str:
    """Return a text in characters of the figure's monospaced font, one column each.

    Line breaks and tabs become visible signs, and with `spaces` spaces too. A character that the font lacks, or that
    is not one column wide, becomes its code point, such as U+1F600.
    """
    return "".join(_figure_character(char, spaces) for char in text)


def _figure_character(char: str, spaces: bool) -> str:
    if char == " " and not spaces:
        return char
    if char in _SHOWN:
        return _SHOWN[char]
    plain = (
        unicodedata.category(char)[0] not in "MC"
        and unicodedata.bidirectional(char) in _LEFT_TO_RIGHT
        and unicodedata.east_asian_width(char) not in "WF"
        and ord(char) in _font_characters()
    )
    return char if plain else f"U+{ord(char):04X}"


@cache
def _font_characters() -> frozenset[int]:
    from matplotlib import font_manager, ft2font

    font = ft2font.FT2Font(font_manager.findfont(font_manager.FontProperties(family="DejaVu Sans Mono")))
    return frozenset(font.get_charmap())
