"""Which characters of a text a reader sees as emojis."""

from emoji import EMOJI_DATA, STATUS, emoji_list

_TEXT_FACES = frozenset("☺☹❤❣✌☝✍")  # drawn as pictures although their plain form is text
_NEVER_EMOJIS = frozenset("©®™")
_AS_TEXT, _KEYCAP = "\ufe0e", "\u20e3"
_FULLY_QUALIFIED = STATUS["fully_qualified"]  # a picture by itself, or with the selector that asks for one
_FIRST_PICTURE = 0x1F000  # from here on characters are pictures whatever selector they have


def emojis(text: str) -> list[str]:
    """Return the emojis of a text: what is drawn as a picture, so no ©, no ™, no text arrow, tick or card suit."""
    found = []
    for match in emoji_list(text):
        sign = match["emoji"]
        as_text = text[match["match_end"] : match["match_end"] + 1] == _AS_TEXT
        if sign[0] not in _NEVER_EMOJIS and not as_text and _is_picture(sign):
            found.append(sign)
    return found


def _is_picture(sign: str) -> bool:
    asked_for = EMOJI_DATA.get(sign, {}).get("status") == _FULLY_QUALIFIED
    return asked_for or sign[0] in _TEXT_FACES or _KEYCAP in sign or ord(sign[0]) >= _FIRST_PICTURE
