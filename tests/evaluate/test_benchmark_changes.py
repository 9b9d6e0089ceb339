"""Paired differences and their standard errors, against numbers worked out by hand."""

from math import isnan, sqrt

import pytest

from sdpo.evaluate.benchmark_changes import TaskScores, change, group_change
from sdpo.evaluate.evidence import BenchmarkChange


def scores(items, **more):
    return TaskScores({"acc,none": 0.0}, {"acc,none": items}, **more)


def test_differences_are_paired_by_item():
    baseline = scores({0: 1, 1: 0, 2: 1, 3: 1})
    own = scores({3: 0.0, 2: 1.0, 1: 1.0, 0: 0.0})
    found = change(6, "task", "acc,none", baseline, own)
    # The differences are -1, 1, 0, -1: mean -1/4, squares of the deviations 9/16, 25/16, 1/16, 9/16, their sum 11/4.
    assert (found.items, found.baseline, found.value, found.difference) == (4, 0.75, 0.5, -0.25)
    assert found.standard_error == pytest.approx(sqrt(11 / 4 / 3) / 2, abs=1e-15)
    assert (found.checkpoint, found.task, found.metric, found.higher_is_better) == (6, "task", "acc,none", True)


def test_equal_results_have_no_difference_and_no_error():
    found = change(1, "task", "acc,none", scores({0: True, 1: False}), scores({0: True, 1: False}))
    assert (found.difference, found.standard_error, found.value) == (0, 0, 0.5)


def test_only_items_that_both_have_count_and_one_item_says_nothing_of_its_error():
    found = change(1, "task", "acc,none", scores({0: 1, 5: 0}), scores({5: 1, 7: 1}))
    assert (found.items, found.difference, found.standard_error) == (1, 1, 1)
    assert change(1, "task", "acc,none", scores({0: 1}), scores({5: 1})) is None


def test_texts_have_no_change_and_what_is_not_finite_is_not_left_out():
    broken = change(1, "task", "acc,none", scores({0: 1, 1: 1}), scores({0: float("nan"), 1: 1}))
    assert broken.items == 2 and isnan(broken.value) and isnan(broken.difference)
    assert change(1, "task", "acc,none", scores({0: "a", 1: "b"}), scores({0: "a", 1: "c"})) is None


def test_a_metric_that_is_no_mean_is_resampled_by_item():
    def share_of_longest(items):
        return max(items) / 100

    baseline = scores({i: i for i in range(50)})
    own = scores({i: 2 * i for i in range(50)}, combine={"acc,none": share_of_longest})
    found = change(1, "task", "acc,none", baseline, own)
    assert (found.baseline, found.value) == (0.49, 0.98)
    # Over resamples the difference is max / 100 of 50 draws: its standard deviation is about 0.0095.
    assert 0.005 < found.standard_error < 0.02
    assert found == change(1, "task", "acc,none", baseline, own)
    same = change(1, "task", "acc,none", own, own)
    assert (same.difference, same.standard_error) == (0, 0)


def test_a_group_weighs_its_tasks_by_size_or_equally():
    one = BenchmarkChange(3, "one", "acc,none", 30, 0.5, 0.6, 0.1, 0.02)
    other = BenchmarkChange(3, "other", "acc,none", 10, 0.9, 0.7, -0.2, 0.04)
    by_size = group_change("both", [one, other], by_size=True)
    assert by_size.items == 40 and by_size.task == "both"
    assert by_size.difference == pytest.approx(0.75 * 0.1 - 0.25 * 0.2)
    assert by_size.baseline == pytest.approx(0.6) and by_size.value == pytest.approx(0.625)
    assert by_size.standard_error == pytest.approx(sqrt(0.015**2 + 0.01**2))
    equal = group_change("both", [one, other], by_size=False)
    assert equal.difference == pytest.approx(-0.05)
    assert equal.standard_error == pytest.approx(sqrt(0.01**2 + 0.02**2))
