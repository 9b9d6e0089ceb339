"""Whether the relevant signal is above the unrelated one: hand-worked ratios, each verdict, and its words."""

import json
from random import Random

import pytest

from sdpo.runtime.statistics import ratio_interval
from sdpo.signal.relevance import (
    ABOVE,
    CLEAR_RATIO,
    CLEARLY_ABOVE,
    LEAST_CASES,
    NOT_ABOVE,
    TOO_FEW,
    compare_signals,
)
from sdpo.text.prompts import HINDSIGHT_TEMPLATES

SETTINGS = ("NULL_CONTRAST=1", "LEARN_FROM=complaints", "MODEL", "HINDSIGHT_TEMPLATE")


def compared(ratios, tokens=3):
    """Return the comparison of cases whose relevant signal is this many times the unrelated one, with either sign."""
    unrelated = [[0.1 * (-1) ** index for index in range(tokens)] for _ in ratios]
    relevant = [[ratio * -value for value in case] for ratio, case in zip(ratios, unrelated, strict=True)]
    return compare_signals(unrelated, relevant)


def test_the_sizes_are_means_over_tokens_and_the_ratio_is_of_these():
    # 0.5 + 0.5 and 0.2 over three tokens; 1, 2 and 3 over three tokens.
    result = compare_signals([[0.5, -0.5], [0.2]], [[1.0, -2.0], [-3.0]])
    assert (result.cases, result.unrelated, result.relevant) == (2, pytest.approx(0.4), pytest.approx(2.0))
    assert result.ratio == pytest.approx(5.0)


def test_the_interval_is_over_cases():
    rng = Random(0)
    unrelated = [[rng.gauss(0, 1) for _ in range(rng.randrange(1, 9))] for _ in range(24)]
    relevant = [[rng.gauss(0, 2) for _ in case] for case in unrelated]
    above, below = ([sum(map(abs, case)) for case in cases] for cases in (relevant, unrelated))
    result = compare_signals(unrelated, relevant)
    assert (result.ratio, result.interval) == ratio_interval(above, below, range(24))
    assert result.interval[0] < result.ratio < result.interval[1]
    # Many tokens of few cases do not narrow it.
    repeated = compare_signals([case * 50 for case in unrelated], [case * 50 for case in relevant])
    assert repeated.interval == pytest.approx(result.interval)


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([3.0] * 8, CLEARLY_ABOVE),
        ([CLEAR_RATIO + 1e-6] * 8, CLEARLY_ABOVE),
        ([CLEAR_RATIO - 1e-3] * 8, ABOVE),
        ([1.3] * 8, ABOVE),
        ([1.0] * 8, NOT_ABOVE),
        ([0.5] * 8, NOT_ABOVE),
        ([1.9, 0.6] * 4, NOT_ABOVE),  # above on average, but not shown
        ([9.0] * (LEAST_CASES - 1), TOO_FEW),
        ([9.0] * LEAST_CASES, CLEARLY_ABOVE),
    ],
)
def test_each_verdict(ratios, verdict):
    result = compared(ratios)
    assert result.verdict == verdict
    assert (result.interval is None) == (verdict == TOO_FEW)


@pytest.mark.parametrize("ratios", [[3.0] * 8, [1.3] * 8, [1.9, 0.6] * 4])
def test_the_sentence_says_verdict_ratio_interval_and_cases(ratios):
    result = compared(ratios)
    low, high = result.interval
    numbers = (f"{result.ratio:.2f} times", f"{low:.2f} to {high:.2f} over {len(ratios)} cases", "95 %")
    assert f"signal is {result.verdict} the unrelated" in result.sentence
    assert all(number in result.sentence for number in numbers)


def test_the_rule_in_the_sentence_is_the_one_that_was_missed():
    assert "clearly above would be a lower end of 1.8" in compared([1.3] * 8).sentence
    assert "above would be a lower end over 1)" in compared([0.5] * 8).sentence


def test_what_to_try_unless_it_is_clearly_above():
    assert compared([3.0] * 8).advice("before") is None
    for ratios in ([1.3] * 8, [0.5] * 8):
        advice = compared(ratios).advice("before")
        assert "\n" not in advice and all(name in advice for name in SETTINGS)
        others = advice.partition("(")[2].partition(")")[0].split(", ")
        assert sorted(others) == sorted(set(HINDSIGHT_TEMPLATES) - {"before"})


@pytest.mark.parametrize(("count", "words"), [(1, "1 case is too few"), (3, "3 cases are too few")])
def test_too_few_cases_are_said_to_be_too_few(count, words):
    result = compared([2.0] * count)
    assert words in result.sentence and "2.00 times" in result.sentence and "95 %" not in result.sentence
    assert "N_CASES" in result.advice("before") and "NULL_CONTRAST" not in result.advice("before")


@pytest.mark.parametrize(("relevant", "words"), [(0.0, "neither do the relevant"), (0.5, "0.5000 nats")])
def test_without_an_unrelated_signal_there_is_no_ratio(relevant, words):
    result = compare_signals([[0.0, 0.0]] * 5, [[relevant, -relevant]] * 5)
    assert (result.ratio, result.interval) == (None, None) and words in result.sentence
    assert result.verdict == (NOT_ABOVE if relevant == 0 else CLEARLY_ABOVE)
    assert (result.advice("before") is None) == (relevant > 0)


def test_no_case_is_an_error():
    with pytest.raises(ValueError):
        compare_signals([], [])


def test_the_dictionary_is_json_and_complete():
    words = json.loads(json.dumps(compared([1.3] * 8).as_dict("after")))
    assert (
        words["verdict"] == ABOVE and words["sentence"] and "(earlier_turn, system, before, framed)" in words["advice"]
    )
    assert words["cases"] == 8 and words["ratio"] == pytest.approx(1.3) and len(words["interval"]) == 2
