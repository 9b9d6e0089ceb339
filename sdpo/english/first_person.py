"""Where an answer speaks of itself in the first person; a Roman numeral or a current called I does not count."""

import re

_CONTRACTED = re.compile(r"(?<![\w.])[Ii]['’](?:m|d|ve|ll)\b")
_BARE = re.compile(r"(?<![\w./-])I(?![\w/])(?!-\d)(?!\.\w)")
_VERBS = (
    "am|think|would|can|cannot|can't|have|was|do|don't|did|like|love|hope|know|guess|believe|suggest|recommend|prefer"
    "|will|won't|could|should|feel|see|mean|want|need|wish|understand|apologi[sz]e|might|may|must|had|just|also|really"
)
_LOWER = re.compile(rf"(?<![\w.])i (?:{_VERBS})\b")
_OBJECT = re.compile(r"(?<![\w.-])(?:me|myself|Myself)(?![\w-])")
_MY = re.compile(r"(?<![\w.-])my(?![\w-])")
# With a capital these count at the beginning of a sentence only; elsewhere they stand in names and titles.
_CAPITAL = re.compile(r"(?:^|[.!?:;]['\"”’)]*\s+|\n)[^\w\n]*(?:Me\b(?!-)|My\b(?! [A-Z])|Mine (?:is|are|was|would)\b)")
_MINE = re.compile(r"\b(?:of|is|was|are|were|than|like|as|be) mine\b|[,;] mine (?:is|are|was|would)\b")
_ENUMERATOR = re.compile(r"^\W*I[.)]\s", re.MULTILINE)
_AFTER = re.compile(r"\s*(?:[=×*·²^≈<>+]|/ |is\b|are\b|(?:,|and|or|to|through|–|-)\s*II)")
_BEFORE = re.compile(
    r"(?:[=×*·/+]\s*"
    r"|\b(?i:war|part|type|chapter|act|phase|level|class|schedule|article|stage|category|book|volume|section|title|grade"
    r"|appendix|figure|table|group|division|round|tier|mark|scene|canto|degree|sonata|model|unit|letter|pronoun|vowel"
    r"|capital|numeral|interstate)\s+"
    r"|\b(?:Elizabeth|Charles|James|George|William|Henry|Edward|Mary|Napoleon|Francis|Frederick|Friedrich|Wilhelm"
    r"|Nicholas|Alexander|Catherine|Peter|Louis|Philip|Ferdinand|Otto|Leopold|Paul|Pius|Darius|Ramesses|Seti|Suleiman"
    r"|Justinian|Constantine|Theodosius|Joseph|Selassie|Xerxes|Richard|John|Boris|Victoria|Maximilian|Pedro)\s+)\Z"
)


def first_person(text: str) -> str:
    """Return the first word by which a text speaks of itself, or an empty string."""
    for pattern in (_CONTRACTED, _LOWER, _OBJECT, _MY, _CAPITAL, _MINE):
        if match := pattern.search(text):
            return match[0].strip(" \n.!?:;,*_\"'”’)")
    enumerators = {match.end() - 2 for match in _ENUMERATOR.finditer(text)}
    for match in _BARE.finditer(text):
        start = match.start()
        numeral = _AFTER.match(text, match.end()) or _BEFORE.search(text[max(0, start - 24) : start])
        if not numeral and match.end() not in enumerators:
            return "I"
    return ""
