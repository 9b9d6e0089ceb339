"""The exact reader of the tiny world: style, form and facts of an answer, meaning of a follow-up.

Readings are of what stands in the text. The three axes can be read from any text at all; whether it is an
answer of the language (`valid`) and whether it tells the post's story (`faithful`) are told apart from them.
"""

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sdpo.errors import SettingError, nearest
from sdpo.text.prompts import PERSONAS
from sdpo.tiny import MODEL_DIR, STYLES_FILE
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

_EMOJI = re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]")
_CASUAL = re.compile(r"\b(lol|totally|kinda|yeah|i'm)\b")
LONG_WORDS = 12  # the longest short answer has 8 words with its prefix, the shortest long one 17


@dataclass(frozen=True)
class Reading:
    """What the oracle sees in an answer."""

    style: Style
    valid: bool
    facts: dict[str, str]

    def faithful(self, post_facts: dict[str, str]) -> bool:
        """Return whether the answer is valid and every fact it tells is the post's."""
        return self.valid and all(post_facts.get(slot) == word for slot, word in self.facts.items())


def read_answer(text: str) -> Reading:
    """Return the style of any text, and whether it is well-formed: one whole answer of the language."""
    casual = bool(_CASUAL.search(text))
    long = len(text.split()) > LONG_WORDS
    style = Style(bool(_EMOJI.search(text)), casual, long)
    for (is_casual, is_long), patterns in _answer_patterns().items():
        for pattern in patterns:
            if match := pattern.fullmatch(text):
                return Reading(Style(bool(match["emoji"]), is_casual, is_long), True, _facts(match))
    return Reading(style, False, {})


def read_post(text: str) -> dict[str, str]:
    """Return the facts of a post, or an empty dict where the text is none."""
    text = text.removesuffix("TL;DR:\n").strip()
    for pattern in _post_patterns():
        if match := pattern.fullmatch(text):
            return _facts(match)
    return {}


@dataclass(frozen=True)
class FollowUp:
    """What a follow-up means: `kind` is request, thanks, unrelated or unreadable."""

    kind: str
    wanted: dict[str, bool]


def read_follow_up(text: str) -> FollowUp:
    """Return what a user's message means; unreadable where it is not one of the language."""
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
    """Return whether a user's message is thanks."""
    return read_follow_up(text).kind == "thanks"


@cache
def tiny_personas() -> dict[str, tuple[str, dict[str, bool]]]:
    """Return style name -> (what the persona says of itself, the axis values it wants).

    Holds the shipped personas that the tiny language can express and those of `styles.json`.
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
    """Return the axis values a persona wants. Raises SettingError where the language has no such style."""
    personas = tiny_personas()
    if style not in personas:
        hint = nearest(style, personas)
        raise SettingError(f"STYLE {style} cannot be read in the tiny world.{hint} It has: {', '.join(personas)}.")
    return personas[style][1]


def violated(style: Style, wanted: dict[str, bool]) -> dict[str, bool]:
    """Return the part of `wanted` that the style goes against."""
    return {axis: value for axis, value in wanted.items() if getattr(style, axis) != value}


def departure_index(completion: str, post: str, wanted: dict[str, bool]) -> int:
    """Return where an answer leaves every answer to this post that fits the taste: a place in its characters.

    What stands there is what a complaint of this taste is about. It is the length of the answer where something is
    missing at its end.
    """
    facts, longest = read_post(post), 0
    for casual, long in ANSWERS:
        for ending in ("", *(" " + emoji for emoji in EMOJIS)):
            if violated(Style(bool(ending), casual, long), wanted):
                continue
            for template in ANSWERS[casual, long]:
                fitting = PREFIX + template.format(**facts) + ending
                longest = max(longest, _shared(completion, fitting))
    return longest


def _shared(first: str, second: str) -> int:
    """Return how many characters two texts have in common from their beginning on."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def react(completion: str, wanted: dict[str, bool]) -> FollowUp:
    """Return what a user with this taste would mean to say of the completion."""
    complaints = violated(read_answer(completion).style, wanted)
    return FollowUp("request", complaints) if complaints else FollowUp("thanks", {})


def verdict(first: str, second: str, wanted: dict[str, bool]) -> str:
    """Return A or B for the completion that fits the taste better, C where neither does."""
    faults = [len(violated(read_answer(text).style, wanted)) for text in (first, second)]
    return "C" if faults[0] == faults[1] else "A" if faults[0] < faults[1] else "B"


def summarize(posts: Sequence[str], completions: Sequence[str], wanted: dict[str, bool]) -> dict:
    """Return adherence, validity, faithfulness, mean length in words, and the share of each axis; NaN-free."""
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


class TinyOracle:
    """The oracle of one style (see `sdpo.users.oracle.Oracle`)."""

    def __init__(self, style: str) -> None:
        self.wanted = wants_of(style)

    @staticmethod
    def reads(model: str) -> bool:
        """Return whether the model is the shipped one."""
        return Path(model).resolve() == MODEL_DIR.resolve()

    def summarize(self, prompts: Sequence[str], completions: Sequence[str]) -> dict[str, Any]:
        """Return what the completions of these posts are like as a whole."""
        return summarize(prompts, completions, self.wanted)

    def is_satisfied(self, follow_up: str) -> bool:
        """Return whether a user's message is thanks."""
        return is_satisfied(follow_up)

    def verdict(self, first: str, second: str) -> str:
        """Return A or B for the completion that fits the style better, C where neither does."""
        return verdict(first, second, self.wanted)


def _share(values: Iterable) -> float:
    numbers = [float(value) for value in values]
    return round(sum(numbers) / max(len(numbers), 1), 4)


def _facts(match: re.Match) -> dict[str, str]:
    found = match.groupdict()
    return {slot: found[slot] for slot in SLOTS if found.get(slot)}


def _pattern(template: str) -> str:
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
