"""The exact oracle of the tiny world: the style, validity and facts of an answer, and the meaning of a follow-up.

Everything is read from the text alone. The three axes of style can be read from any text. Whether a text is an answer
of the language (`valid`) and whether its facts are those of the post (`faithful`) are separate results.
"""

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from sdpo.errors import SettingError, nearest
from sdpo.text.prompts import PERSONAS
from sdpo.tiny import STYLES_FILE
from sdpo.tiny.language import (
    ANSWERS,
    AXES,
    CLOSERS,
    EMOJIS,
    OPENERS,
    POSTS,
    PREFIX,
    REQUESTS,
    SLOTS,
    THANKS,
    THANKS_CLOSERS,
    THANKS_OPENERS,
    UNRELATED,
    UNRELATED_CLOSERS,
    UNRELATED_OPENERS,
    Style,
)
from sdpo.users.styles import OwnStyle

_EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]")
_CASUAL = re.compile(r"\b(lol|totally|kinda|yeah|i'm)\b")
LONG_WORDS = 12  # the longest short answer has 8 words with its prefix, the shortest long one 17


@dataclass(frozen=True)
class Reading:
    """What the oracle reads in an answer: its style, whether it is well-formed, and its facts (slot -> word)."""

    style: Style
    valid: bool
    facts: dict[str, str]

    def faithful(self, post_facts: dict[str, str]) -> bool:
        """Return whether the answer is valid and all its facts are those of the post."""
        return self.valid and all(post_facts.get(slot) == word for slot, word in self.facts.items())


def read_answer(text: str) -> Reading:
    """Return the style of any text, and whether it is well-formed: exactly one answer of the language."""
    casual = bool(_CASUAL.search(text))
    long = len(text.split()) > LONG_WORDS
    style = Style(bool(_EMOJI.search(text)), casual, long)
    for (is_casual, is_long), patterns in _answer_patterns().items():
        for pattern in patterns:
            if match := pattern.fullmatch(text):
                return Reading(Style(bool(match["emoji"]), is_casual, is_long), True, _facts(match))
    return Reading(style, False, {})


def read_post(text: str) -> dict[str, str]:
    """Return the facts of a post, or an empty dict if the text is not a post of the language."""
    text = text.removesuffix("TL;DR:\n").strip()
    for pattern in _post_patterns():
        if match := pattern.fullmatch(text):
            return _facts(match)
    return {}


@dataclass(frozen=True)
class FollowUp:
    """The meaning of a follow-up: `kind` is request, thanks, unrelated or unreadable, `wanted` the requested values."""

    kind: str
    wanted: dict[str, bool]


def read_follow_up(text: str) -> FollowUp:
    """Return the meaning of a follow-up: unreadable if it is not in the language or contradicts itself."""
    for kind, opener, body, closer in _follow_up_patterns():
        if match := re.fullmatch(f"(?:{opener})((?:{body})(?: (?:{body}))*)(?:{closer})", text):
            if kind != "request":
                return FollowUp(kind, {})
            wanted: dict[str, bool] = {}
            for sentence in re.findall(body, match[1]):
                axis, value = _request_meanings()[sentence]
                if wanted.setdefault(axis, value) != value:
                    return FollowUp("unreadable", {})
            return FollowUp(kind, wanted)
    return FollowUp("unreadable", {})


def is_satisfied(text: str) -> bool:
    """Return whether a follow-up says thanks."""
    return read_follow_up(text).kind == "thanks"


@cache
def tiny_personas() -> dict[str, tuple[str, dict[str, bool]]]:
    """Return style -> (persona, the axis values that it wants).

    These are the shipped personas that the tiny language can express, and those of `styles.json`.
    """
    wants: dict[str, dict[str, bool]] = {"no_emojis": {"emoji": False}}
    for name in PERSONAS:
        if name.startswith(("concise_", "detailed_")):
            length, tone, _ = name.split("_")
            wants[name] = {"casual": tone == "casual", "long": length == "detailed"}
    personas = {name: (PERSONAS[name], wanted) for name, wanted in wants.items()}
    added = {"emojis": ("emoji", True), "casual": ("casual", True), "formal": ("casual", False)}
    added |= {"short": ("long", False), "long": ("long", True)}
    texts = json.loads(STYLES_FILE.read_text("utf-8"))
    return personas | {name: (texts[name], dict([want])) for name, want in added.items()}


def wants_of(style: str) -> dict[str, bool]:
    """Return the axis values that a style wants. Raises SettingError if the language cannot express the style."""
    personas = tiny_personas()
    if style not in personas:
        hint = nearest(style, personas)
        raise SettingError(
            f"STYLE={style} is not in the tiny world: its language cannot express it.{hint} The styles there are "
            f"{', '.join(personas)}."
        )
    return personas[style][1]


def check_style(style: str, own: OwnStyle | None) -> None:
    """Raise SettingError for a style that neither the oracle nor a rule of the user's own reads."""
    if own is None or not own.rule:
        wants_of(style)


def violated(style: Style, wanted: dict[str, bool]) -> dict[str, bool]:
    """Return the wanted axis values that the style violates."""
    return {axis: value for axis, value in wanted.items() if getattr(style, axis) != value}


def departure_index(completion: str, post: str, wanted: dict[str, bool]) -> int:
    """Return the index of the character at which an answer departs from every answer to this post in the wanted style.

    This is what a complaint of a user with this style is about. It is the length of the answer if something is missing
    at its end.
    """
    facts, longest = read_post(post), 0
    for casual, long in ANSWERS:
        for ending in ("", *(" " + emoji for emoji in EMOJIS)):
            if violated(Style(bool(ending), casual, long), wanted):
                continue
            for template in ANSWERS[casual, long]:
                wanted_answer = PREFIX + template.format(**facts) + ending
                longest = max(longest, _shared(completion, wanted_answer))
    return longest


def _shared(first: str, second: str) -> int:
    """Return the length of the common prefix of two texts."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def react(completion: str, wanted: dict[str, bool]) -> FollowUp:
    """Return the meaning of the follow-up that a user who wants these values gives to the completion."""
    complaints = violated(read_answer(completion).style, wanted)
    return FollowUp("request", complaints) if complaints else FollowUp("thanks", {})


def verdict(first: str, second: str, wanted: dict[str, bool]) -> str:
    """Return A or B for the completion that violates fewer wanted values, C if neither does."""
    faults = [len(violated(read_answer(text).style, wanted)) for text in (first, second)]
    return "C" if faults[0] == faults[1] else "A" if faults[0] < faults[1] else "B"


def summarize(posts: Sequence[str], completions: Sequence[str], wanted: dict[str, bool]) -> dict:
    """Return adherence, validity, faithfulness, mean length in words and the share of each axis; 0 without answers."""
    readings = [read_answer(text) for text in completions]
    return {
        "adherence": _share(not violated(reading.style, wanted) for reading in readings),
        "validity": _share(reading.valid for reading in readings),
        "faithfulness": _share(
            reading.faithful(read_post(post)) for post, reading in zip(posts, readings, strict=True)
        ),
        "mean_length": _share(len(text.split()) for text in completions),
        "axes": {axis: _share(getattr(reading.style, axis) for reading in readings) for axis in AXES},
        "answers": len(readings),
    }


def _share(values: Iterable) -> float:
    """Return the mean, rounded to four digits; 0 without values."""
    numbers = [float(value) for value in values]
    return round(sum(numbers) / max(len(numbers), 1), 4)


def _facts(match: re.Match) -> dict[str, str]:
    groups = match.groupdict()
    return {slot: groups[slot] for slot in SLOTS if groups.get(slot)}


def _pattern(template: str) -> str:
    """Return a regular expression that matches the filled template, with a group per slot."""
    pattern = re.escape(template)
    for slot, words in SLOTS.items():
        pattern = pattern.replace(re.escape("{" + slot + "}"), f"(?P<{slot}>{'|'.join(words)})")
    return pattern


@cache
def _answer_patterns() -> dict[tuple[bool, bool], list[re.Pattern]]:
    emoji = f"(?: (?P<emoji>{'|'.join(EMOJIS)}))?"
    return {
        key: [re.compile(re.escape(PREFIX) + _pattern(template) + emoji) for template in templates]
        for key, templates in ANSWERS.items()
    }


@cache
def _post_patterns() -> list[re.Pattern]:
    return [re.compile(_pattern(template)) for template in POSTS]


@cache
def _request_meanings() -> dict[str, tuple[str, bool]]:
    return {sentence: meaning for meaning, sentences in REQUESTS.items() for sentence in sentences}


@cache
def _follow_up_patterns() -> list[tuple[str, str, str, str]]:
    """Return (kind, openers, sentences, closers) per kind of follow-up, as alternatives of a regular expression."""

    def either(parts: Iterable[str], form: str = "{}") -> str:
        return "|".join(form.format(re.escape(part)) if part else "" for part in parts)

    groups = [
        ("request", OPENERS, _request_meanings(), CLOSERS),
        ("thanks", THANKS_OPENERS, THANKS, THANKS_CLOSERS),
        ("unrelated", UNRELATED_OPENERS, UNRELATED, UNRELATED_CLOSERS),
    ]
    return [
        (kind, either(opening, "{} "), either(bodies), either(closing, " {}"))
        for kind, opening, bodies, closing in groups
    ]
