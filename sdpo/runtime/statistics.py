"""Confidence intervals of rates and ratios, agreement of judges, and length-controlled win rates.

Pure functions of numbers. An outcome is 1 for a win, -1 for a loss, 0 for a tie. Rates are over wins and losses;
undefined results are None.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import erfc, sqrt

import numpy as np

Interval = tuple[float, float]

_Z = 1.959963984540054  # the 0.975 quantile of the normal distribution
_PRIOR_VARIANCE = 25.0  # weak: 256 wins of 256 still give 0.998, but every fit stays finite
_MAX_STEPS, _TOLERANCE = 100, 1e-10  # of Newton's method; the tolerance is in the log-posterior


def win_rate(wins: float, losses: float) -> tuple[float, float] | None:
    """Return the win rate over non-ties and its standard error, sqrt(p (1 - p) / n); None without wins and losses."""
    decided = wins + losses
    if not decided:
        return None
    rate = wins / decided
    return rate, sqrt(rate * (1 - rate) / decided)


def wilson(wins: float, losses: float, z: float = _Z) -> Interval | None:
    """Return Wilson's score interval of the win rate (Wilson 1927), which stays within 0 and 1 even at rates 0 and 1.

    A tie may count as half of both. None without wins and losses; `z` is the quantile of the normal distribution, by
    default for 95 %.
    """
    decided = wins + losses
    if not decided:
        return None
    rate, correction = wins / decided, z * z / decided
    centre = (rate + correction / 2) / (1 + correction)
    half = z / (1 + correction) * sqrt(rate * (1 - rate) / decided + correction / (4 * decided))
    # At rates 0 and 1 one bound is exactly 0 or 1; rounding could miss it.
    return (0.0 if wins == 0 else centre - half), (1.0 if losses == 0 else centre + half)


def design_effect(groups: Sequence[Hashable]) -> float:
    """Return how many rows count as one if the rows of a group are alike; 1 if each is a group of its own.

    This is Kish's design effect at a correlation of 1 (1965), the sum of the squared sizes of the groups by the number
    of rows: so divided, counts of wins and losses give an interval that is never too narrow.
    """
    sizes = Counter(groups).values()
    return sum(size * size for size in sizes) / sum(sizes) if sizes else 1.0


def resampled(groups: Sequence[Hashable], resamples: int = 2000, seed: int = 0) -> np.ndarray:
    """Return how often each row is in each resample of whole groups, drawn with replacement, (resamples, rows).

    `groups` has the group of each row. Using one table for all checkpoints and judges makes their bootstrap paired: the
    resamples have the same rows.
    """
    if not len(groups):
        return np.zeros((resamples, 0))
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    count = len(numbers)
    drawn_RG = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return drawn_RG[:, [numbers[group] for group in groups]].astype(np.float64)


def bootstrap(outcomes: Sequence[int], counts_RN: np.ndarray) -> Interval | None:
    """Return the 95 % percentile interval of the win rate over resamples of prompts, ties included (Efron 1979).

    `counts_RN` is from `resampled`. None if every prompt is a tie. With only wins or only losses the interval has no
    width: use Wilson's there.
    """
    outcomes_N = np.asarray(outcomes)
    wins_R, losses_R = counts_RN @ (outcomes_N > 0), counts_RN @ (outcomes_N < 0)
    decided_R = wins_R + losses_R
    if not decided_R.any():
        return None
    rates = wins_R[decided_R > 0] / decided_R[decided_R > 0]
    return _percentiles(rates)


def mean_interval(values: Sequence[float]) -> tuple[float, Interval] | None:
    """Return the mean and its 95 % interval by the normal approximation; None without values."""
    if not len(values):
        return None
    mean = float(np.mean(values))
    half = _Z * float(np.std(values, ddof=1)) / sqrt(len(values)) if len(values) > 1 else 0.0
    return mean, (mean - half, mean + half)


def ratio_interval(
    above: Sequence[float], below: Sequence[float], groups: Sequence[Hashable], resamples: int = 2000, seed: int = 0
) -> tuple[float, Interval]:
    """Return the ratio of the means of `above` and `below` over the same rows, and its 95 % interval (Efron 1979).

    The percentile interval is over resamples of groups, not of rows, because the interactions of one conversation are
    correlated. With `below` all ones the ratio is the mean of `above`. Raises ValueError if there are no rows, if the
    lengths differ or if the sum of `below` is not positive.
    """
    if not len(above) or len(above) != len(below) or len(above) != len(groups) or not sum(below) > 0:
        raise ValueError("a ratio needs rows, columns of equal length and a positive sum of the denominator")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    sums_G2 = np.zeros((len(numbers), 2))
    for group, *values in zip(groups, above, below, strict=True):
        sums_G2[numbers[group]] += values
    tops_R, bottoms_R = (resampled(range(len(numbers)), resamples, seed) @ sums_G2).T
    total, under = sums_G2.sum(0)
    ratios = tops_R[bottoms_R > 0] / bottoms_R[bottoms_R > 0]
    return float(total / under), _percentiles(ratios)


def share_interval(rows: Sequence[tuple[Hashable, bool]], resamples: int = 2000, seed: int = 0) -> Interval:
    """Return the 95 % interval of the share of True; (0, 1) without rows.

    Each row is its group and the outcome. The interval covers Wilson's, which holds for few rows, and the percentile
    interval over resamples of groups, which is wider where the rows of a group, such as a conversation, are correlated.
    """
    if not rows:
        return 0.0, 1.0
    right = sum(outcome for _, outcome in rows)
    low, high = wilson(right, len(rows) - right) or (0.0, 1.0)
    bootstrap_low, bootstrap_high = _percentiles(_resampled_shares(rows, resamples, seed))
    return min(low, bootstrap_low), max(high, bootstrap_high)


def difference_interval(
    first: Sequence[tuple[Hashable, bool]],
    second: Sequence[tuple[Hashable, bool]],
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, Interval] | None:
    """Return by how much the share of True is higher in `first` than in `second`, and the 95 % interval; None if empty.

    Each row is its group and the outcome; the rows of one group, such as a person, are correlated. The interval covers
    Newcombe's of two independent shares (1998), which holds for few rows and for shares of 0 and 1, and the percentile
    interval over resamples of groups, which is wider where groups differ.
    """
    if not first or not second:
        return None
    columns = [[outcome for _, outcome in side] for side in (first, second)]
    shares = [sum(side) / len(side) for side in columns]
    difference = shares[0] - shares[1]
    (low_1, high_1), (low_2, high_2) = (wilson(sum(side), len(side) - sum(side)) or (0.0, 1.0) for side in columns)
    low = difference - sqrt((shares[0] - low_1) ** 2 + (high_2 - shares[1]) ** 2)
    high = difference + sqrt((high_1 - shares[0]) ** 2 + (shares[1] - low_2) ** 2)
    drawn = [_resampled_shares(side, resamples, seed + number) for number, side in enumerate((first, second))]
    bootstrap_low, bootstrap_high = _percentiles(drawn[0] - drawn[1])
    return difference, (min(low, bootstrap_low), max(high, bootstrap_high))


def _resampled_shares(rows: Sequence[tuple[Hashable, bool]], resamples: int, seed: int) -> np.ndarray:
    """Return the share of True in each resample of groups."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(group for group, _ in rows))}
    sums_G2 = np.zeros((len(numbers), 2))
    for group, outcome in rows:
        sums_G2[numbers[group]] += (outcome, 1)
    tops_R, bottoms_R = (resampled(range(len(numbers)), resamples, seed) @ sums_G2).T
    return tops_R / bottoms_R


def kappa(first: Sequence[Hashable], second: Sequence[Hashable]) -> float | None:
    """Return Cohen's κ of two judges' labels for the same items (Cohen 1960).

    None without items, or if the agreement expected by chance is 1. Raises ValueError for different numbers of labels.
    """
    if len(first) != len(second):
        raise ValueError("both judges must have judged the same items")
    if not first:
        return None
    number = len(first)
    observed = sum(one == other for one, other in zip(first, second, strict=True)) / number
    labels = set(first) | set(second)
    chance = sum(list(first).count(label) * list(second).count(label) for label in labels) / number**2
    return None if chance == 1 else (observed - chance) / (1 - chance)


@dataclass(frozen=True)
class LengthControl:
    """A length-controlled win rate.

    `rate` and its 95 % `interval` are for answers of equal length; `length_effect` is the coefficient of length.
    `p_value` tests the hypothesis that length alone explains the outcomes: the model is no better at equal length.
    `observed` is the win rate as it is, `by_length` the one that the lengths would give to an equally good model.
    """

    rate: float
    interval: Interval | None
    length_effect: float
    p_value: float
    observed: float
    by_length: float


def length_controlled(
    outcomes: Sequence[int], length_differences: Sequence[float], counts_RN: np.ndarray
) -> LengthControl | None:
    """Return the win rate at equal length; None without a win or a loss.

    The method is AlpacaEval 2's (Dubois et al. 2024, arXiv 2404.04475): a logistic regression of the outcome on the
    model and on tanh(difference / standard deviation of the differences), evaluated at difference 0. Differences from
    it: only wins and losses count, as in `win_rate`; there is no term for the difficulty of a prompt, which could
    only be estimated from many models; both coefficients have a weak normal prior (variance 25).
    `counts_RN` is from `resampled`.
    """
    outcomes_N = np.asarray(outcomes)
    decided = outcomes_N != 0
    if not decided.any():
        return None
    differences_N = np.asarray(length_differences, dtype=np.float64)
    spread = differences_N.std()
    # Without spread all differences are equal: use tanh(±∞), so length and model are collinear and share the effect.
    lengths_N = np.tanh(differences_N / spread) if spread > 0 else np.sign(differences_N)
    wins_N, lengths_N = (outcomes_N[decided] > 0).astype(np.float64), lengths_N[decided]
    ones_1N = np.ones((1, int(decided.sum())))
    features_N2 = np.stack([np.ones_like(lengths_N), lengths_N], axis=-1)
    fitted_12, log_posterior_1 = _fit_logistic(features_N2, wins_N, ones_1N)
    _, without_model_1 = _fit_logistic(features_N2[:, 1:], wins_N, ones_1N)
    drawn_RN = counts_RN[:, decided]
    drawn_RN = drawn_RN[drawn_RN.any(axis=1)]
    refitted_R2, _ = _fit_logistic(features_N2, wins_N, drawn_RN) if len(drawn_RN) else (None, None)
    return LengthControl(
        rate=float(_sigmoid(fitted_12[0, 0])),
        interval=None if refitted_R2 is None else _percentiles(_sigmoid(refitted_R2[:, 0])),
        length_effect=float(fitted_12[0, 1]),
        # Likelihood-ratio test: twice the difference of the log-posteriors is chi-squared with 1 degree of freedom.
        p_value=erfc(sqrt(max(0.0, float(log_posterior_1[0] - without_model_1[0])))),
        observed=float(wins_N.mean()),
        by_length=float(_sigmoid(fitted_12[0, 1] * lengths_N).mean()),
    )


def length_explains(wilson_interval: Interval | None, control: LengthControl | None) -> bool:
    """Return whether a significant win is no longer one at equal length, and most of it follows from the lengths.

    With few verdicts an interval at equal length is wide even where the lengths hardly differ: they explain nothing.
    """
    if wilson_interval is None or control is None or wilson_interval[0] <= 0.5:
        return False
    if control.by_length - 0.5 < (control.observed - 0.5) / 2:
        return False
    low = control.interval[0] if control.interval else control.rate
    return low <= 0.5 or control.p_value > 0.05


def _fit_logistic(x_ND: np.ndarray, y_N: np.ndarray, weights_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients (R, D) and log-posteriors (R,), one fit for each row of weights, by Newton's method.

    The prior makes the log-posterior strictly concave; a step that lowers it is halved until it does not.
    """
    coefficients_RD = np.zeros((len(weights_RN), x_ND.shape[1]))
    values_R = _log_posterior(x_ND, y_N, weights_RN, coefficients_RD)
    for _ in range(_MAX_STEPS):
        p_RN = _sigmoid(coefficients_RD @ x_ND.T)
        gradient_RD = (weights_RN * (y_N - p_RN)) @ x_ND - coefficients_RD / _PRIOR_VARIANCE
        curvature_RDD = np.einsum("rn,nd,ne->rde", weights_RN * p_RN * (1 - p_RN), x_ND, x_ND, optimize=True)
        curvature_RDD += np.eye(x_ND.shape[1]) / _PRIOR_VARIANCE
        step_RD = np.linalg.solve(curvature_RDD, gradient_RD[..., None])[..., 0]
        size_R1 = np.ones((len(weights_RN), 1))
        for _ in range(30):
            new_R = _log_posterior(x_ND, y_N, weights_RN, coefficients_RD + size_R1 * step_RD)
            lower_R = new_R < values_R - _TOLERANCE
            if not lower_R.any():
                break
            size_R1[lower_R] /= 2
        coefficients_RD, before_R, values_R = coefficients_RD + size_R1 * step_RD, values_R, new_R
        if np.abs(values_R - before_R).max() < _TOLERANCE:
            break
    return coefficients_RD, values_R


def _log_posterior(
    x_ND: np.ndarray, y_N: np.ndarray, weights_RN: np.ndarray, coefficients_RD: np.ndarray
) -> np.ndarray:
    logits_RN = coefficients_RD @ x_ND.T
    likelihood_R = (weights_RN * (y_N * logits_RN - np.logaddexp(0, logits_RN))).sum(axis=1)
    return likelihood_R - (coefficients_RD**2).sum(axis=1) / (2 * _PRIOR_VARIANCE)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def _percentiles(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
