"""What an evaluation warns of: each thing once, and only where it is so."""

from dataclasses import replace

import numpy as np
import pytest

from sdpo.evaluate.win_rate_figure import draw_win_rates
from sdpo.evaluate.win_rates import WinRate, warnings
from sdpo.runtime.statistics import length_controlled, length_explains, resampled, wilson

ROW = WinRate(
    3, "one", prompts=10, wins=6, losses=2, ties=2, win_rate=0.75, wilson_low=0.4, wilson_high=0.9, controlled_rate=0.6,
    length=120.0, length_low=110.0, length_high=130.0, baseline_length=80.0, unfinished=0.0, baseline_unfinished=0.0,
    contradictory=0.0,
)  # fmt: skip
TIE = replace(ROW, wins=0, losses=0, ties=10, win_rate=None, wilson_low=None, wilson_high=None, controlled_rate=None)


def explained(outcomes, differences):
    outcomes = np.array(outcomes)
    control = length_controlled(outcomes, differences, resampled(range(len(outcomes)), 200))
    return length_explains(wilson(int((outcomes > 0).sum()), int((outcomes < 0).sum())), control)


def test_length_explains_a_win_once_however_many_rows_it_concerns():
    rows = [
        replace(ROW, checkpoint=step, judge=judge, length_explains=step > 3)
        for judge in ("one", "two")
        for step in (3, 6, 9, 12)
    ]
    found = [text for text in warnings(rows) if "length alone explains" in text]
    assert len(found) == 1
    assert found[0].count("checkpoint-") == 6 and "checkpoint-3 " not in found[0]
    assert found[0].count("by one") == found[0].count("by two") == 1
    assert not any("length" in text for text in warnings([ROW]))


@pytest.mark.parametrize("number", [16, 24, 40, 120])
def test_lengths_that_hardly_differ_explain_nothing(number):
    """Three quarters of the verdicts are wins whatever the lengths: with few of them the interval is wide."""
    generator = np.random.default_rng(number)
    flagged = 0
    for _ in range(20):
        outcomes = np.where(generator.permutation(number) < number * 0.78, 1, -1)
        flagged += explained(outcomes, generator.normal(0.0, 30.0, number))
    assert flagged <= 1


def test_shorter_answers_that_win_are_not_explained_by_a_judge_who_likes_length():
    generator = np.random.default_rng(3)
    differences = generator.normal(-30, 20, 60)
    wins = np.where(generator.random(60) < 1 / (1 + np.exp(-(2.5 + 0.03 * differences))), 1, -1)
    assert not explained(wins, differences)
    # A judge who likes brevity, and a model that is brief and no better.
    by_brevity = np.where(
        generator.random(200) < 1 / (1 + np.exp(0.06 * (differences := generator.normal(-30, 20, 200)))), 1, -1
    )
    assert explained(by_brevity, differences)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([replace(TIE, same=10)], "every answer is the same"),
        ([replace(TIE, same=10), replace(TIE, checkpoint=6, same=10)], "every answer is the same"),
        (
            [replace(TIE, checkpoint=3, same=7), replace(TIE, checkpoint=6, same=10)],
            "no answer is judged better or worse than the baseline's, though checkpoint-3 changed 3 of 10. Check LR",
        ),
        ([replace(TIE, same=10), ROW], None),
        ([replace(TIE, wins=1, ties=9)], None),
        ([replace(TIE, unreadable=9)], None),  # then the verdicts are missing, and say nothing
    ],
)
def test_an_evaluation_of_ties_alone_says_how_many_answers_changed(rows, words):
    found = [text for text in warnings(rows) if "same as the baseline's" in text or "no answer is judged" in text]
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


@pytest.mark.parametrize(("length", "baseline"), [(120.0, 80.0), (20.0, 900.0), (0.0, 0.0), (0.0, 50.0), (900.0, 0.0)])
def test_the_baselines_line_lies_within_the_axes(length, baseline, tmp_path, monkeypatch):
    from sdpo.evaluate import win_rate_figure

    figures = []
    monkeypatch.setattr(win_rate_figure, "save_figure", lambda figure, path: figures.append(figure))
    row = replace(ROW, length=length, length_low=length * 0.9, length_high=length * 1.1, baseline_length=baseline)
    draw_win_rates(tmp_path / "x.png", "title", [row])
    axes = figures[0].axes[1]
    low, high = axes.get_ylim()
    (line,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert low <= line.get_ydata()[0] < high and low <= length < high


def test_a_judge_that_is_often_wrong_is_named_in_the_figure(tmp_path, monkeypatch):
    from sdpo.evaluate import win_rate_figure

    figures = []
    monkeypatch.setattr(win_rate_figure, "save_figure", lambda figure, path: figures.append(figure))
    draw_win_rates(tmp_path / "x.png", "title", [ROW])
    draw_win_rates(tmp_path / "y.png", "title", [ROW], ["judge one is right on 0.50 of 64 labelled pairs"])
    assert [figure.get_supxlabel() for figure in figures] == ["", "judge one is right on 0.50 of 64 labelled pairs"]
