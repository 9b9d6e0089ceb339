"""How many sentences an answer has."""

import re

from sdpo.english.markdown import has_word, read_markdown, with_plain_line_ends

_END = re.compile(
    r"(?P<mark>[.!?…]+)(?P<closed>[\"'”’»)\]*_]*)\s+(?=\S)|(?P<full>[。！？]+[”’」』）]*)\s*(?=\S)|\n+(?=\s*(?P<line>\S))"
)
_OPENING = "\"'“‘«([*_¿¡"
_BEFORE_A_NAME = re.compile(
    r"(?:\b(?:dr|mr|mrs|ms|prof|st|mt|vs|cf|al|sen|rep|gov|gen|rev|hon|capt|sgt|lt|col|ca)|\be\.g|\bi\.e)\.\Z",
    re.IGNORECASE,
)
_LETTER = re.compile(r"\b[a-z]\.\Z", re.IGNORECASE)  # of a name, a.m. or U.S., or the end of "vitamin C."
_BEGINS = re.compile(
    r"(?:the|this|that|these|those|it|they|you|your|we|he|she|there|here|if|when|while|because|however|also|but|so|then"
    r"|some|many|most|each|every|both|another|for example|for instance|in (?:addition|fact|short|general))\b",
    re.IGNORECASE,
)
_BEFORE_A_NUMBER = re.compile(
    r"(?:\b(?:no|nos|fig|vol|pp?|approx|est|min|max|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec))\.\Z", re.IGNORECASE
)
_ABBREVIATION = re.compile(
    r"\b(?:etc|inc|ltd|co|corp|bros|jr|sr|dept|approx|tsp|tbsp|oz|lbs?|a\.m|p\.m)\.\Z", re.IGNORECASE
)
_PRICE = "$€£"
_NUMBER = re.compile(r"(?:^|\n)\s*\d+\.\Z")  # of a list


def count_sentences(text: str) -> int:
    """Return the number of sentences; a heading, a list item, a table cell and a block of code count as one at least.

    A line that begins with a capital begins a sentence. What was cut off counts as the sentence that it began.
    """
    blocks = read_markdown(with_plain_line_ends(text)).blocks
    return sum(_in_block(block.text) for block in blocks if has_word(block.text))


def _in_block(text: str) -> int:
    text = text.strip()
    starts = [match.end() for match in _END.finditer(text) if _ends(text, match)]
    parts = [text[start:end] for start, end in zip([0, *starts], [*starts, len(text)], strict=True)]
    return sum(map(has_word, parts)) or 1


def _ends(text: str, match: re.Match[str]) -> bool:
    following = text[match.end() :].lstrip(_OPENING)
    small = following[:1].islower()
    if match["line"]:
        return not small
    if match["full"]:
        return True
    before = text[: match.end("mark")]
    if match["mark"] == ".":
        if _NUMBER.search(before) or _BEFORE_A_NAME.search(before):
            return False
        if _LETTER.search(before) and not (match["closed"] or _BEGINS.match(following)):
            return False
        if (following[:1].isdigit() or following[:1] in _PRICE) and _BEFORE_A_NUMBER.search(before):
            return False
        return not small or not (match["closed"] or _ABBREVIATION.search(before))
    return not small or (not match["closed"] and "…" not in match["mark"] and ".." not in match["mark"])
