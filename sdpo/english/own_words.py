"""What an answer says in its own voice: without code, quotations, and drafts that the user will send as theirs.

A letter that says "I" speaks for the user, and its "let me know" is no offer of the assistant.
"""

import re
from dataclasses import dataclass

from sdpo.english.markdown import GAP, Block, has_word, read_markdown

_QUOTATIONS = (
    re.compile(r'"[^"]*"'),
    re.compile("“[^“”]*”"),
    re.compile("„[^„“”]*[“”]"),
    re.compile("«[^«»]*»"),
    re.compile(r"(?<!\w)['‘][^'’‘\n]*(?:(?<=\w)['’](?=\w)[^'’‘\n]*)*['’](?!\w)"),
    re.compile(r'(?:(?<=[\s(])|^)["“„][^"“”]*\Z'),  # never closed: a quotation of several paragraphs, or cut off
)
_SALUTATION = re.compile(
    r"(?:Dear|To whom)\b[^.!?\n]{0,50},?\Z|(?:Hi|Hello|Hey|Good (?:morning|evening|day))\b[^.!?\n]{0,50}[,:!]\Z"
)
_SUBJECT = re.compile(r"(?:Subject|Re|Betreff):", re.IGNORECASE)
_SIGN_OFF = re.compile(
    r"(?:kind|best|warm|warmest|yours|sincerely|regards|with|love|lots of love|cheers|thanks|thank you|many thanks"
    r"|all the best|warmly|respectfully|greetings|take care|see you|cordially)\b[^.!?\n]{0,30}[,!.]?\Z",
    re.IGNORECASE,
)
_REQUEST = re.compile(
    r"\W*(?:please\s+|can you\s+|could you\s+|would you\s+|help me\s+)*"
    r"(?:write|draft|compose|i need an?|i'd like an?|i want an?)\b",
    re.IGNORECASE,
)
_NO_PIECE = re.compile(
    r"\b(?:function|query|script|class|program|regex|expression|unit test|loop|rule|one-liner|dockerfile|sql|app|method"
    r"|decorator|statement|formula|code|command|sequence|type|python|javascript|java|rust|summary)\b",
    re.IGNORECASE,
)
_OPENING = re.compile(
    r"\W*(?:sure|certainly|of course|absolutely|here(?:['’]s| is| are)|i(?:['’]| )|great)\b", re.IGNORECASE
)
_CLOSING = re.compile(
    r"\W*(?:let me know|feel free|i hope|hope (?:this|that)|would you like|do you want|if you|is there any|i can"
    r"|i['’](?:d|ve)|happy to|shall i|should i|should you|need )",
    re.IGNORECASE,
)
_REFUSAL = re.compile(r"\W*(?:i['’]m sorry|i am sorry|sorry|i can(?:['’]t|not)|as an ai)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Passage:
    """A block in the assistant's own voice: `first` if nothing comes before, `last` if nothing foreign follows.

    `kind` is that of the block.
    """

    kind: str
    text: str
    first: bool
    last: bool


def own_words(text: str, prompt: str = "") -> list[Passage]:
    """Return the passages in which an answer speaks for itself, with GAP where a quotation or code stood.

    Where the prompt asks for a piece of writing, only a line before and an offer after it are the assistant's own.
    """
    blocks = read_markdown(text).blocks
    drafted = _drafted(blocks)
    if asks_for_a_piece(prompt):
        drafted |= {number for number in range(len(blocks)) if not _frames_a_piece(number, blocks)}
    own = [_is_prose(block) and number not in drafted for number, block in enumerate(blocks)]
    spoken = [has_word(block.text) for block in blocks]  # a rule or a lone emoji comes neither before nor after
    foreign = [spoken[number] and not own[number] for number in range(len(blocks))]
    return [
        Passage(block.kind, without_quotations(block.text), not any(spoken[:number]), not any(foreign[number:]))
        for number, block in enumerate(blocks)
        if own[number] and (spoken[number] or GAP in block.text)
    ]


def asks_for_a_piece(prompt: str) -> bool:
    """Return whether a prompt asks for a letter, a poem or another text to be used as it is; code is none."""
    return bool(_REQUEST.match(prompt)) and not _NO_PIECE.search(prompt)


def without_quotations(text: str) -> str:
    """Return a block's text with GAP for each quotation."""
    for pattern in _QUOTATIONS:
        text = pattern.sub(GAP, text)
    return text


def _is_prose(block: Block) -> bool:
    return block.kind not in ("code", "rule") and not block.quoted


def _frames_a_piece(number: int, blocks: list[Block]) -> bool:
    text = blocks[number].text
    if len(blocks) == 1:
        return bool(_REFUSAL.match(text))
    before = number == 0 and (text.rstrip().endswith(":") or bool(_OPENING.match(text)))
    return before or (number > 0 and number == len(blocks) - 1 and bool(_CLOSING.match(text)))


def _drafted(blocks: list[Block]) -> set[int]:
    """Return the places of the blocks that belong to a letter, or to a text set between two rules."""
    places: set[int] = set()
    number = 0
    while number < len(blocks):
        end = _letter_end(blocks, number) or _ruled_end(blocks, number)
        places |= set(range(number, end))
        number = max(end, number + 1)
    return places


def _letter_end(blocks: list[Block], start: int) -> int:
    """Return where a letter ends that begins here, 0 where none does."""
    lines = blocks[start].text.strip().splitlines() or [""]
    salutes = bool(_SALUTATION.match(lines[0].strip()))
    if not salutes and not _SUBJECT.match(lines[0].strip()):
        return 0
    for number in range(start, len(blocks)):
        lines = blocks[number].text.strip().splitlines() or [""]
        signed = [place for place, line in enumerate(lines) if _SIGN_OFF.match(line.strip())]
        if signed and (number > start or signed[-1] > 0):
            named = len(lines) > signed[-1] + 1
            return number + 1 if named or not _is_name(blocks, number + 1) else number + 2
        if blocks[number].kind == "rule":
            return number
    # Never signed: a letter only where its first line can be nothing else.
    return len(blocks) if lines[0] and (start > 0 or blocks[0].text.startswith(("Dear", "Subject"))) else 0


def _is_name(blocks: list[Block], number: int) -> bool:
    if number >= len(blocks):
        return False
    text = blocks[number].text.strip()
    return has_word(text) and len(text.split()) <= 4 and text[-1] not in ".!?:"


def _ruled_end(blocks: list[Block], start: int) -> int:
    """Return where a text ends that a rule and a line with a colon introduce here, 0 where none begins."""
    if blocks[start].kind != "rule" or start == 0 or not blocks[start - 1].text.rstrip().endswith(":"):
        return 0
    ends = (number for number in range(start + 1, len(blocks)) if blocks[number].kind == "rule")
    return next(ends, len(blocks) - 1) + 1
