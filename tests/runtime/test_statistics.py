"""Rates, intervals, agreement and length control against manual calculations, slow references and simulations."""

from math import comb, exp, log, tanh

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdpo.runtime.statistics import (
    bootstrap,
    design_effect,
    kappa,
    length_controlled,
    length_explains,
    mean_interval,
    resampled,
    share_interval,
    wilson,
    win_rate,
)

DRAWS, NUMBER = 2000, 256


def test_rates_and_intervals_calculated_by_hand():
    rate, error = win_rate(8, 2)
    assert rate == 0.8 and error == pytest.approx((0.8 * 0.2 / 10) ** 0.5)
    assert wilson(8, 2) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(1, 0) == pytest.approx((0.2065, 1.0), abs=1e-4)
    assert win_rate(1, 0) == (1.0, 0.0)
    assert win_rate(0, 0) is wilson(0, 0) is None


@given(st.integers(0, 400), st.integers(0, 400))
def test_wilson_contains_the_rate_stays_within_0_and_1_and_is_symmetric(wins, losses):
    if wins + losses == 0:
        return
    low, high = wilson(wins, losses)
    assert 0 <= low <= wins / (wins + losses) <= high <= 1 and low < high
    assert wilson(losses, wins) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_wilson_has_its_nominal_coverage(rate):
    """The exact coverage, over all possible results instead of a sample of them."""
    chances = [comb(NUMBER, k) * rate**k * (1 - rate) ** (NUMBER - k) for k in range(NUMBER + 1)]
    inside = [wilson(k, NUMBER - k)[0] <= rate <= wilson(k, NUMBER - k)[1] for k in range(NUMBER + 1)]
    assert 0.93 <= sum(p for p, covered in zip(chances, inside, strict=True) if covered) <= 0.97


@pytest.mark.parametrize("ties", [0.0, 0.4])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_both_intervals_cover_the_rate_in_a_simulation(rate, ties):
    generator = np.random.default_rng(int(100 * rate + 1000 * ties))
    counts = resampled(range(NUMBER), 1000, seed=1)
    covered = {"wilson": 0, "bootstrap": 0}
    for _ in range(DRAWS):
        outcomes = np.where(generator.random(NUMBER) < rate, 1, -1) * (generator.random(NUMBER) >= ties)
        wins, losses = int((outcomes > 0).sum()), int((outcomes < 0).sum())
        for name, (low, high) in {"wilson": wilson(wins, losses), "bootstrap": bootstrap(outcomes, counts)}.items():
            covered[name] += low <= rate <= high
    assert all(0.93 <= count / DRAWS <= 0.97 for count in covered.values()), covered


def test_the_bootstrap_agrees_with_a_slow_one():
    generator = np.random.default_rng(3)
    outcomes = generator.choice([1, 1, -1, 0], size=60)
    rates = []
    for _ in range(4000):
        drawn = [outcomes[generator.integers(60)] for _ in range(60)]
        rates.append(drawn.count(1) / (drawn.count(1) + drawn.count(-1)))
    found = bootstrap(outcomes, resampled(range(60), 4000))
    assert found == pytest.approx(np.quantile(rates, [0.025, 0.975]), abs=0.02)


def test_few_or_no_decided_prompts():
    assert bootstrap([], resampled(range(0))) is None
    assert bootstrap([0, 0, 0], resampled(range(3))) is None
    assert bootstrap([1], resampled(range(1))) == (1.0, 1.0)
    assert bootstrap([0, 0, -1], resampled(range(3))) == (0.0, 0.0)
    assert length_controlled([], [], resampled(range(0))) is None
    assert length_controlled([0, 0], [3, 4], resampled(range(2))) is None
    one = length_controlled([1], [5.0], resampled(range(1)))
    assert 0.5 < one.rate < 1 and one.p_value > 0.05
    assert mean_interval([]) is None and mean_interval([4.0]) == (4.0, (4.0, 4.0))


def test_every_resample_has_a_count_per_prompt_and_the_same_total():
    counts = resampled(range(7), 50, seed=2)
    assert counts.shape == (50, 7) and (counts.sum(axis=1) == 7).all()
    assert (counts == resampled(range(7), 50, seed=2)).all() and (counts != resampled(range(7), 50, seed=3)).any()


def test_a_resample_has_whole_groups():
    groups = ["a", "b", "a", "c", "b", "a"]
    counts = resampled(groups, 200, seed=2)
    assert (counts[:, 0] == counts[:, 2]).all() and (counts[:, 0] == counts[:, 5]).all()
    assert (counts[:, [0, 1, 3]].sum(axis=1) == 3).all() and (counts[:, 0] != counts[:, 1]).any()


def test_rows_of_a_group_count_as_one():
    assert design_effect([]) == design_effect(["a"]) == design_effect(range(9)) == 1
    assert design_effect(["a", "b"] * 5) == 5 and design_effect(["a"] * 3 + ["b"]) == 10 / 4
    # Thirty alike rows of ten groups are ten: the interval is that of ten.
    groups = [number % 10 for number in range(30)]
    assert wilson(21 / design_effect(groups), 9 / design_effect(groups)) == pytest.approx(wilson(7, 3))


def test_a_share_of_correlated_rows_is_less_certain_than_one_of_independent_rows():
    outcomes = [True] * 8 + [False] * 4
    low, high = wilson(8, 4)
    alone = share_interval(list(enumerate(outcomes)))
    assert alone == pytest.approx((low, high), abs=0.06) and alone[0] <= low and alone[1] >= high
    repeated = [(number, outcome) for number, outcome in enumerate(outcomes) for _ in range(10)]
    together, apart = (
        share_interval(repeated),
        share_interval([(row, outcome) for row, (_, outcome) in enumerate(repeated)]),
    )
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])
    assert share_interval([]) == (0.0, 1.0)


def test_kappa_by_hand():
    # Yes by both 20, by the first alone 5, by the second alone 10, by neither 15: agreement 0.7, 0.5 by chance.
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert kappa(first, second) == pytest.approx(0.4)
    assert kappa("abc", "abc") == 1 and kappa("ab", "ba") == -1
    assert kappa("aa", "aa") is None and kappa("", "") is None
    with pytest.raises(ValueError):
        kappa("a", "ab")


def slow_posterior(intercept, slope, outcomes, features):
    total = -(intercept**2 + slope**2) / 50
    for outcome, feature in zip(outcomes, features, strict=True):
        total -= log(1 + exp(-outcome * (intercept + slope * feature)))
    return total


def test_the_length_control_maximizes_the_posterior():
    generator = np.random.default_rng(5)
    differences = generator.normal(20, 40, 80)
    spread = differences.std()
    features = [tanh(difference / spread) for difference in differences]
    chances = 1 / (1 + np.exp(-(0.5 + 1.2 * np.array(features))))
    outcomes = np.where(generator.random(80) < chances, 1, -1)
    control = length_controlled(outcomes, differences, resampled(range(80), 10))
    intercept = log(control.rate / (1 - control.rate))
    top = slow_posterior(intercept, control.length_effect, outcomes, features)
    for first, second in [(0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01), (0.01, 0.01), (-0.01, 0.01)]:
        assert slow_posterior(intercept + first, control.length_effect + second, outcomes, features) < top
    ties = length_controlled([*outcomes, 0, 0], [*differences, *differences[:2]], resampled(range(82), 10))
    assert ties.rate == pytest.approx(control.rate, abs=0.03)  # ties only change the spread


def simulated(generator, better: float, by_length: float, longer: float, number: int = NUMBER):
    """Outcomes from a logistic model of quality and length; `longer` is the mean difference in standard deviations."""
    differences = generator.normal(longer, 1, number) * 30
    chances = 1 / (1 + np.exp(-(better + by_length * np.tanh(differences / differences.std()))))
    return np.where(generator.random(number) < chances, 1, -1), differences


def judged(outcomes, differences, resamples=150):
    control = length_controlled(outcomes, differences, resampled(range(len(outcomes)), resamples))
    return control, length_explains(wilson(int((outcomes > 0).sum()), int((outcomes < 0).sum())), control)


@pytest.mark.parametrize(("better", "by_length", "longer"), [(0.0, 2.0, 0.8), (1.0, 1.0, 0.5), (-0.5, 2.0, 1.0)])
def test_the_rate_at_equal_length_is_recovered_when_the_judge_prefers_long_answers(better, by_length, longer):
    generator = np.random.default_rng(8)
    rates, covered = [], 0
    truth = 1 / (1 + exp(-better))
    for _ in range(100):
        control, _ = judged(*simulated(generator, better, by_length, longer), resamples=200)
        rates.append(control.rate)
        covered += control.interval[0] <= truth <= control.interval[1]
    assert np.mean(rates) == pytest.approx(truth, abs=0.02)
    assert covered >= 88


def test_a_verbose_model_is_flagged_and_a_better_one_is_not():
    generator = np.random.default_rng(9)
    verbose = [judged(*simulated(generator, 0.0, 2.5, 0.8))[1] for _ in range(30)]
    better = [judged(*simulated(generator, 1.5, 0.0, 0.0))[1] for _ in range(30)]
    both = [judged(*simulated(generator, 1.5, 1.5, 0.5))[1] for _ in range(30)]
    assert sum(verbose) >= 27 and sum(better) == 0 and sum(both) <= 1


def test_a_model_that_is_always_longer_and_always_wins_is_flagged():
    generator = np.random.default_rng(10)
    always = np.ones(NUMBER)
    for differences in (np.full(NUMBER, 40.0), generator.normal(200, 10, NUMBER)):
        control, flagged = judged(always, differences)
        assert flagged and control.p_value > 0.05
    control, flagged = judged(always, generator.normal(0, 10, NUMBER))  # wins at any length
    assert not flagged and control.rate > 0.99
    control, flagged = judged(always, np.zeros(NUMBER))
    assert not flagged and control.rate > 0.99 and control.length_effect == 0
    assert not judged(-always, np.full(NUMBER, 40.0))[1]  # no win to explain


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from([1, -1, 0]), st.floats(-1e6, 1e6)), min_size=1, max_size=40))
def test_any_outcomes_and_lengths_give_a_finite_fit_or_none(pairs):
    outcomes, differences = zip(*pairs, strict=True)
    control = length_controlled(outcomes, differences, resampled(range(len(pairs)), 20))
    if not any(outcomes):
        assert control is None
        return
    low, high = control.interval
    assert 0 < control.rate < 1 and 0 < low <= high < 1 and 0 <= control.p_value <= 1
    mirrored = length_controlled([-o for o in outcomes], [-d for d in differences], resampled(range(len(pairs)), 20))
    assert mirrored.rate == pytest.approx(1 - control.rate, abs=1e-4)
