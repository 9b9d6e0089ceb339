"""Labelled pairs of answers in the tiny language, to try a judge on: the label follows from how a pair was made."""

from collections.abc import Iterator
from functools import cache
from random import Random

from sdpo.tiny.language import AXES, Post, Style, sample_post, sample_style, write_answer
from sdpo.tiny.oracle import tiny_personas, violated
from sdpo.users.labelled import KINDS, LabelledPair

_PER_KIND = 16
_SEED = 19
_NEAR = 8  # characters that two answers of nearly equal length may differ by


@cache
def labelled_pairs() -> tuple[LabelledPair, ...]:
    """Return 64 pairs, as many of each kind; in half of each kind the first answer is the better one."""
    random = Random(_SEED)
    pairs = []
    for kind in KINDS:
        # A user who wants long answers finds the longer one better.
        styles = [name for name, (_, wanted) in tiny_personas().items() if kind != "length" or not wanted.get("long")]
        for number in range(_PER_KIND):
            style = styles[number % len(styles)]
            persona, wanted = tiny_personas()[style]
            post = sample_post(random, held=True)
            better, worse = _of_kind(random, kind, number, post, wanted)
            first = number % 4 in (0, 3)
            answers = (better, worse) if first else (worse, better)
            label = "first" if first else "second"
            pairs.append(LabelledPair(f"{kind}-{number + 1:02}", kind, style, persona, post.text, *answers, label))
    return tuple(pairs)


def _of_kind(random: Random, kind: str, number: int, post: Post, wanted: dict[str, bool]) -> tuple[str, str]:
    """Return the better answer to the post and the worse one."""
    if kind == "content":
        return _differing_in_content(random, number, post, wanted)
    for better, worse in _differing_in_style(random, post, wanted):
        near = abs(len(better) - len(worse)) <= _NEAR
        if kind == "length" and len(better) <= len(worse):
            return better, worse
        if kind != "length" and (near or "long" in wanted):
            return better, worse
    raise AssertionError("the answers never end")


def _differing_in_style(random: Random, post: Post, wanted: dict[str, bool]) -> Iterator[tuple[str, str]]:
    """Yield pairs of answers with the facts of the post, of which one has the wanted style and the other has not."""
    while True:
        one, other = _with(sample_style(random), wanted), sample_style(random)
        if violated(other, wanted):
            yield write_answer(random, post, one), write_answer(random, post, other)


def _differing_in_content(random: Random, number: int, post: Post, wanted: dict[str, bool]) -> tuple[str, str]:
    """Return an answer about the post, and one in the same style about another post or with its words shuffled."""
    style = _with(sample_style(random), wanted)
    better = write_answer(random, post, style)
    if number % 2:
        return better, write_answer(random, sample_post(random, held=True), style)
    words = better.split()
    shuffled = list(words)
    while shuffled == words:
        random.shuffle(shuffled)
    return better, " ".join(shuffled)


def _with(style: Style, wanted: dict[str, bool]) -> Style:
    """Return the style with the wanted values."""
    return Style(*(wanted.get(axis, getattr(style, axis)) for axis in AXES))
