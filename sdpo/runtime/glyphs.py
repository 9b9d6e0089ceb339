"""Text for figures: characters that the font lacks are replaced by something that can be read."""

import unicodedata
from functools import cache

MONOSPACED, PROPORTIONAL = "DejaVu Sans Mono", "DejaVu Sans"  # matplotlib brings both
# Visible signs for whitespace.
_SHOWN = {"\n": "⏎", "\t": "⇥", " ": "·"}
# Bidirectional classes that are drawn left to right: other letters join, stack or run right to left.
_LEFT_TO_RIGHT = {"L", "EN", "ES", "ET", "AN", "CS", "ON", "S", "WS", "B", ""}
_EMOJI_STYLE = "\ufe0f"  # after a character it asks for the coloured form, which figures do not have


def figure_text(text: str, spaces: bool = False, font: str = MONOSPACED) -> str:
    """Return a text in characters of the figure's font, with the monospaced one in characters one column wide.

    Line breaks and tabs become visible signs, and with `spaces` spaces too. An emoji that the font lacks becomes its
    name, such as :party popper:, any other character its code point, such as U+6F22.
    """
    return "".join(_figure_character(char, spaces, font) for char in text)


def _figure_character(char: str, spaces: bool, font: str) -> str:
    if char == " " and not spaces:
        return char
    if char in _SHOWN:
        return _SHOWN[char]
    if char == _EMOJI_STYLE:
        return ""
    plain = (
        unicodedata.category(char)[0] not in "MC"
        and unicodedata.bidirectional(char) in _LEFT_TO_RIGHT
        and (font != MONOSPACED or unicodedata.east_asian_width(char) not in "WF")
        and ord(char) in _font_characters(font)
    )
    if plain:
        return char
    if unicodedata.category(char) == "So" and (name := unicodedata.name(char, "")):
        return f":{name.lower()}:"
    return f"U+{ord(char):04X}"


@cache
def _font_characters(family: str) -> frozenset[int]:
    from matplotlib import font_manager, ft2font

    font = ft2font.FT2Font(font_manager.findfont(font_manager.FontProperties(family=family)))
    return frozenset(font.get_charmap())
