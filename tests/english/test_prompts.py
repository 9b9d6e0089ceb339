"""The prompts are many, of all kinds, unlike each other, and a third of them is held out."""

import itertools
import re
from collections import Counter

import pytest

from sdpo.english.prompts import KINDS, prompts, split_of
from sdpo.errors import SettingError
from sdpo.text.records import Prompt, prompt_lines

ALL = [*prompts("train"), *prompts("validation")]


def test_there_are_enough_of_each_kind():
    assert len(ALL) >= 420 and len({prompt.id for prompt in ALL}) == len(ALL)
    counts = Counter(prompt.kind for prompt in ALL)
    assert set(counts) == set(KINDS) and min(counts.values()) >= 60
    assert all(isinstance(prompt, Prompt) and prompt.id.startswith(prompt.kind) for prompt in ALL)
    assert len(list(prompt_lines(ALL))) == len(ALL)  # each can be written for a trainer


def test_they_are_as_long_as_people_type():
    for prompt in ALL:
        words = len(prompt.prompt.split())
        assert (40 if prompt.kind == "summarize" else 5) <= words <= (100 if prompt.kind == "summarize" else 40)


def test_no_two_share_more_than_half_of_their_word_trigrams():
    grams = {prompt.id: _trigrams(prompt.prompt) for prompt in ALL}
    for first, second in itertools.combinations(grams, 2):
        shared = len(grams[first] & grams[second])
        assert shared <= min(len(grams[first]), len(grams[second])) / 2, (first, second)


def test_a_third_is_held_out_by_the_id_alone():
    assert 0.28 < len(prompts("validation")) / len(ALL) < 0.39
    assert all(split_of(prompt.id) == "train" for prompt in prompts("train"))
    held = Counter(prompt.kind for prompt in prompts("validation"))
    assert min(held[kind] for kind in KINDS) >= 12
    # Written down: a split that moved would train on what was held out.
    assert [prompt.id for prompt in prompts("validation")][:4] == [
        "how-to-001",
        "how-to-004",
        "how-to-008",
        "how-to-013",
    ]


def test_an_unknown_split_names_the_nearest():
    with pytest.raises(SettingError, match="Did you mean validation"):
        prompts("validate")


def _trigrams(text):
    words = re.findall(r"\w+", text.lower())
    return set(zip(words, words[1:], words[2:], strict=False))
