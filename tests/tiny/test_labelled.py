"""The tiny world's labelled pairs: made from the language, balanced, and labelled as the oracle reads them."""

from collections import Counter

from sdpo.tiny.labelled import labelled_pairs
from sdpo.tiny.oracle import read_answer, read_post
from sdpo.tiny.world import TinyOracle
from sdpo.users.labelled import KINDS


def test_there_are_as_many_of_each_kind_and_in_half_the_first_answer_is_better():
    pairs = labelled_pairs()
    assert Counter((pair.kind, pair.better) for pair in pairs) == {
        (kind, better): 8 for kind in KINDS for better in ("first", "second")
    }
    assert len({pair.prompt for pair in pairs}) == len(pairs) and len({pair.style for pair in pairs}) > 8
    labelled_pairs.cache_clear()
    assert labelled_pairs() == pairs


def test_labels_are_the_oracles_and_content_differs_in_facts_or_words_alone():
    for pair in labelled_pairs():
        better, worse = pair.answers
        facts = read_post(pair.prompt)
        assert read_answer(better).faithful(facts)
        oracle = TinyOracle(pair.style)
        assert oracle.fits(better) == (True if pair.kind != "content" else oracle.fits(worse))
        if pair.kind == "content":
            assert read_answer(better).style == read_answer(worse).style and not read_answer(worse).faithful(facts)
        else:
            assert oracle.verdict(better, worse) == "A" and read_answer(worse).faithful(facts)
        if pair.kind == "length":
            assert len(better) <= len(worse)
