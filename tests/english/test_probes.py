"""The answers to try users on: of every style enough that fit and enough that do not, and of every shape."""

from collections import Counter

import pytest

from sdpo.english.checkers import CHECKERS
from sdpo.english.probes import probes
from sdpo.english.prompts import prompts


@pytest.mark.parametrize("style", CHECKERS)
def test_at_least_ten_answers_fit_a_style_and_at_least_ten_do_not(style):
    fits = Counter(CHECKERS[style].fits(answer, prompt) for prompt, answer in probes(style))
    assert fits[True] >= 10 and fits[False] >= 10


def test_they_are_short_and_different_and_their_prompts_are_not_trained_on():
    counts = Counter(prompt for prompt, _ in probes())
    assert len(counts) == 12 and set(counts.values()) == {8}
    assert len(set(probes())) == len(probes()) and all(len(answer.split()) <= 100 for _, answer in probes())
    assert not set(counts) & {prompt.prompt for split in ("train", "validation") for prompt in prompts(split)}
