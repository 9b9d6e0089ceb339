"""Whether an answer fits a style, decided by a rule, and what violates it in a few words.

Every checker is a pure function of the text and, where it matters who speaks, of the prompt. An answer without a
word fits no style. An answer that was cut off is read as far as it goes.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from sdpo.english.emojis import emojis
from sdpo.english.filler import closing_filler, opening_filler
from sdpo.english.first_person import first_person
from sdpo.english.lists import count_items
from sdpo.english.markdown import CODE, count_words, has_word, read_markdown, with_plain_line_ends
from sdpo.english.own_words import own_words
from sdpo.english.sentence_count import count_sentences
from sdpo.english.styles import BRIEF_WORDS, check_style
from sdpo.text.languages import language_of
from sdpo.users.styles import OwnStyle

_EXCLAMATION = re.compile(r"[?？]*(?:[!‼](?=[\"'”’»)\]*_]*(?:\s|\Z|[☀-➿⭐\U0001f300-\U0001faff]))|！)")
_FACTORIAL = re.compile(r"[\"'(]*(?:\d+|[a-z])\Z")
_BRANDS = re.compile(r"(?:Yahoo|Jeopardy)\Z")
_OPEN_BOLD = re.compile(r"(?:^|\s)(?:\*\*|__)(?=\w)(?!.*(?:\*\*|__))[^\n]*\Z")
_APOSTROPHE = re.compile(r"(?<=[^\W\d_])['’](?=[^\W\d_])|(?<=s)['’](?=\s)")
_OTHER_MARKS = frozenset("`|~^´¨")  # symbols to Unicode, marks to a reader


@dataclass(frozen=True)
class Checker:
    """The rule of one style."""

    style: str
    violation: Callable[[str, str], str]

    def fits(self, text: str, prompt: str = "") -> bool:
        """Return whether an answer fits the style."""
        return not self.reason(text, prompt)

    def reason(self, text: str, prompt: str = "") -> str:
        """Return in a few words what violates the style, or an empty string where the answer fits."""
        return self.violation(text, prompt) if has_word(text) else "no word"


def _brief(text: str, _: str) -> str:
    words = count_words(text)
    return f"{words} words" if words > BRIEF_WORDS else ""


def _no_lists(text: str, _: str) -> str:
    return "a list" if count_items(text) else ""


def _more_lists(text: str, _: str) -> str:
    return "" if count_items(text) >= 2 else "no list of two items"


def _no_emojis(text: str, _: str) -> str:
    return next((f"the emoji {found}" for found in emojis(text)), "")


def _exclamation(text: str, _: str) -> str:
    return "" if _exclaims(text) else "no sentence ends with an exclamation mark"


def _no_first_person(text: str, prompt: str) -> str:
    found = (first_person(passage.text) for passage in own_words(text, prompt))
    return next((f"it says {word}" for word in found if word), "")


def _less_formatting(text: str, _: str) -> str:
    found = read_markdown(text)
    present = {
        "a heading": found.headings,
        "bold": found.bold or any(_OPEN_BOLD.search(block.text) for block in found.blocks[-1:] if block.kind != "code"),
        "italics": found.italic,
        "a table": found.tables,
        "a code block": found.fences,
        "a list": count_items(text),
    }
    return next((name for name, count in present.items() if count), "")


def _more_formatting(text: str, _: str) -> str:
    found = read_markdown(text)
    return "" if found.headings or found.bold or found.tables else "no heading, bold or table"


def _no_filler_followup(text: str, prompt: str) -> str:
    found = closing_filler(text, prompt)
    return f"it ends with: {found}" if found else ""


def _less_filler_praise(text: str, _: str) -> str:
    found = opening_filler(text)
    return f"it begins with: {found}" if found else ""


def _no_punctuation(text: str, _: str) -> str:
    marks = (char for char in _APOSTROPHE.sub("", text) if is_punctuation(char))
    return next((f"the mark {char}" for char in marks), "")


def _one_sentence(text: str, _: str) -> str:
    sentences = count_sentences(text)
    return f"{sentences} sentences" if sentences > 1 else ""


def _in_language(code: str, name: str, text: str, _: str) -> str:
    if language_of(text) != code:
        return f"not in {name}"
    # The whole may be in it by its greater part. Words of a program are English to the reader of languages.
    blocks = read_markdown(with_plain_line_ends(text)).blocks
    read = (language_of(block.text) for block in blocks if block.kind not in CODE)
    return next((f"a paragraph in another language ({found})" for found in read if found not in (None, code)), "")


_VIOLATIONS: dict[str, Callable[[str, str], str]] = {
    "brief": _brief,
    "no_lists": _no_lists,
    "more_lists": _more_lists,
    "no_emojis": _no_emojis,
    "exclamation": _exclamation,
    "no_first_person": _no_first_person,
    "less_formatting": _less_formatting,
    "more_formatting": _more_formatting,
    "no_filler_followup": _no_filler_followup,
    "less_filler_praise": _less_filler_praise,
    "no_punctuation": _no_punctuation,
    "one_sentence": _one_sentence,
    "spanish": partial(_in_language, "es", "Spanish"),
    "chinese": partial(_in_language, "zh", "Chinese"),
}
CHECKERS: Mapping[str, Checker] = MappingProxyType(
    {style: Checker(style, violation) for style, violation in _VIOLATIONS.items()}
)


def checker_of(style: str, own: OwnStyle | None = None) -> Checker:
    """Return the checker of a style. Raises SettingError where neither room nor own rule has one."""
    if own is not None and own.rule:
        return Checker(style, partial(_broken, own.rule))
    check_style(style)
    return CHECKERS[style]


def _broken(rule: Mapping[str, Any], text: str, _: str) -> str:
    """Return in a few words what violates a rule of a STYLE_FILE, an empty string where an answer keeps it."""
    for pattern in rule.get("matches", ()):
        if not re.search(pattern, text):
            return f"nothing matches {pattern}"
    for pattern in rule.get("lacks", ()):
        if found := re.search(pattern, text):
            return f"it has {found[0]!r}"
    for kind, count in (("words", count_words), ("sentences", count_sentences)):
        least, most = rule.get(f"least_{kind}", 0), rule.get(f"most_{kind}", math.inf)
        if not least <= (number := count(text)) <= most:
            return f"{number} {kind}"
    return ""


def is_punctuation(char: str) -> bool:
    """Return whether a character is a punctuation mark: Unicode's, and those that ASCII has beside them."""
    return char in _OTHER_MARKS or unicodedata.category(char).startswith("P")


def _exclaims(text: str) -> bool:
    for block in read_markdown(with_plain_line_ends(text)).blocks:
        if block.kind in CODE:
            continue
        for match in _EXCLAMATION.finditer(block.text):
            rest = block.text[match.end() :].lstrip("\"'”’»)]*_").lstrip()
            if _ends_a_sentence(block.text[: match.start()], rest):
                return True
    return False


def _ends_a_sentence(before: str, rest: str) -> bool:
    spaced, before = before != before.rstrip(), before.rstrip()
    if not has_word(before[-40:]) or before[-1] in "([{<\"'“‘":
        return False
    if spaced and rest and not rest[0].isupper():
        return False  # an operator; French sets a space before the mark, at a sentence's end
    word = before.split()[-1]
    return not ((_FACTORIAL.match(word) or _BRANDS.search(word)) and rest[:1] and not rest[:1].isupper())
