"""Where an answer speaks of itself in the first person; a Roman numeral or a current called I does not count."""

import re

_CONTRACTED = re.compile(r"(?<![\w.])[Ii]['’](?:m|d|ve|ll)\b")
_BARE = re.compile(r"(?<![\w./-])I(?![\w/])(?!-\d)(?!\.\w)")
_VERBS = (
    "am|think|would|can|cannot|can't|have|was|do|don't|did|like|love|hope|know|guess|believe|suggest|recommend|prefer"
    "|will|won't|could|should|feel|see|mean|want|need|wish|understand|apologi[sz]e|might|may|must|had|just|also|really"
)
_LOWER = re.compile(rf"(?<![\w.])(?<!variable )(?<!index )(?<!counter )(?<!each )(?<!integer )i (?:{_VERBS})\b")
_OBJECT = re.compile(r"(?<![\w.-])(?:me|myself|Myself)(?![\w-])")
_MY = re.compile(r"(?<![\w.-])my(?![\w-])")
# With a capital these count at the beginning of a sentence only; elsewhere they stand in names and titles.
_CAPITAL = re.compile(r"(?:^|[.!?:;]['\"”’)]*\s+|\n)[^\w\n]*(?:Me\b(?!-)|My\b(?! [A-Z])|Mine (?:is|are|was|would)\b)")
_MINE = re.compile(r"\b(?:of|is|was|are|were|than|like|as|be) mine\b|[,;] mine (?:is|are|was|would)\b")
_ENUMERATOR = re.compile(r"^\W*I[.)]\s", re.MULTILINE)
_AFTER = re.compile(r"\s*(?:[=×*·²^≈<>+]|/ |is\b|are\b|(?:,|and|or|to|through|–|-)\s*II)")
_LETTER = re.compile(r"\b(?:letter|pronoun|vowel|capital|numeral|word)\s+\Z")
_AFTER_LETTER = re.compile(r"\s*(?:[,.;:!?)]|as\b|in\b|and\b|with\b|stands\b|looks\b|\Z)")
_QUANTITY = re.compile(r"\b(?:current|matrix|inertia|intensity|[Pp]hotosystem|[Bb]ipolar|[Cc]lass|MHC)\s+\Z|\|\s*\Z")
_AFTER_QUANTITY = re.compile(rf"(?!\s+(?:{_VERBS})\b)")
_CLASS = re.compile(r"\b(?:type|phase|stage|class|grade|level|schedule|category|tier)\s+\Z")
_AFTER_CLASS = re.compile(
    r"\s+(?:errors?|trials?|stud(?:y|ies)|clinical|diabetes|cancers?|tumou?rs?|collagen|injur(?:y|ies)|drugs?"
    r"|substances?|surveys?|reactions?|muscle|fib(?:re|er)s?|disease)\b"
)
_BEFORE = re.compile(
    r"(?:[=×*·/+]\s*"
    r"|\b(?:War|Part|Type|Chapter|Act|Phase|Level|Class|Schedule|Article|Stage|Category|Book|Volume|Section|Title|Grade"
    r"|Appendix|Figure|Table|Group|Division|Round|Tier|Mark|Scene|Canto|Sonata|Model|Unit|Interstate)\s+"
    r"|\b(?:Elizabeth|Charles|James|George|William|Henry|Edward|Mary|Napoleon|Francis|Frederick|Friedrich|Wilhelm"
    r"|Nicholas|Alexander|Isabella|Tiberius|Ivan|Catherine|Peter|Louis|Philip|Ferdinand|Otto|Leopold|Paul|Pius|Darius|Ramesses|Seti|Suleiman"
    r"|Justinian|Constantine|Theodosius|Joseph|Selassie|Xerxes|Richard|John|Boris|Victoria|Maximilian|Pedro)\s+)\Z"
)


def first_person(text: str) -> str:
    """Return the first word by which a text speaks of itself, or an empty string."""
    for pattern in (_CONTRACTED, _LOWER, _OBJECT, _MY, _CAPITAL, _MINE):
        if match := pattern.search(text):
            return match[0].strip(" \n.!?:;,*_\"'”’)")
    enumerators = {match.end() - 2 for match in _ENUMERATOR.finditer(text)}
    for match in _BARE.finditer(text):
        if match.end() not in enumerators and not _is_numeral(text, match):
            return "I"
    return ""


def _is_numeral(text: str, match: re.Match[str]) -> bool:
    """Return whether an I is a number, a letter or a quantity."""
    before, end = text[max(0, match.start() - 24) : match.start()], match.end()
    return bool(
        _AFTER.match(text, end)
        or _BEFORE.search(before)
        or (_LETTER.search(before) and _AFTER_LETTER.match(text, end))
        or (_QUANTITY.search(before) and _AFTER_QUANTITY.match(text, end))
        or (_CLASS.search(before) and _AFTER_CLASS.match(text, end))
    )
