"""The labelled pairs that judges are tried on: balanced, of matched lengths, and in agreement with the rules."""

from collections import Counter

import pytest

from sdpo.english.checkers import CHECKERS
from sdpo.english.labelled import labelled_pairs
from sdpo.english.prompts import prompts
from sdpo.text.prompts import GENERAL_PROMPTS, PERSONAS, REHEARSAL_PROMPTS
from sdpo.users.labelled import KINDS

PAIRS = labelled_pairs()


def of_kind(kind):
    return [pair for pair in PAIRS if pair.kind == kind]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_enough_pairs_and_the_better_answer_is_first_in_half_of_them(kind):
    assert len(of_kind(kind)) >= 15
    assert abs(Counter(pair.better for pair in of_kind(kind))["first"] - len(of_kind(kind)) / 2) <= 0.5


def test_no_pair_or_prompt_is_repeated_or_used_elsewhere():
    used = {prompt.prompt for split in ("train", "validation") for prompt in prompts(split)}
    used |= {*GENERAL_PROMPTS, *REHEARSAL_PROMPTS}
    asked = [pair.prompt for pair in PAIRS]
    assert len(PAIRS) >= 60 and len(set(asked)) == len({pair.id for pair in PAIRS}) == len(PAIRS)
    assert not set(asked) & used
    assert all(pair.persona == PERSONAS[pair.style] for pair in PAIRS)
    # An answer's language and its number of sentences need no judge.
    assert set(CHECKERS) - {pair.style for pair in PAIRS} == {"one_sentence", "spanish", "chinese"}


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.id)
def test_the_label_is_that_of_the_rule_where_one_reads_the_style(pair):
    better, worse = pair.answers
    assert pair.better in ("first", "second") and better != worse
    assert all(15 <= len(text.split()) <= 60 for text in pair.answers)
    checker = CHECKERS.get(pair.style)
    if checker is None:
        return
    fits = checker.fits(better, pair.prompt), checker.fits(worse, pair.prompt)
    assert fits == ((True, True) if pair.kind == "content" else (True, False))


def test_lengths_are_matched_where_length_must_not_decide():
    for pair in PAIRS:
        better, worse = (len(text) for text in pair.answers)
        if pair.kind == "length":
            assert 0.9 * worse <= better <= worse or better <= 0.72 * worse, pair.id
        else:
            assert 0.8 <= better / worse <= 1.25, pair.id
    for kind in set(KINDS) - {"length"}:
        longer = sum(len(pair.answers[0]) > len(pair.answers[1]) for pair in of_kind(kind))
        assert abs(longer - len(of_kind(kind)) / 2) <= 2, kind
    near = [pair for pair in of_kind("length") if len(pair.answers[0]) >= 0.9 * len(pair.answers[1])]
    assert len(near) == len(of_kind("length")) / 2
