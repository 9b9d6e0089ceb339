"""How sure a figure of the audit is: pure functions of numbers."""

from collections.abc import Hashable, Sequence
from math import sqrt

import numpy as np

Interval = tuple[float, float]

_Z = 1.959963984540054  # the 0.975 quantile of the normal distribution
RESAMPLES = 2000


def wilson(wins: int, decided: int) -> Interval:
    """Return Wilson's 95 % score interval of a share (Wilson 1927); (0, 1) where nothing was decided."""
    if not decided:
        return 0.0, 1.0
    rate, room = wins / decided, _Z * _Z / decided
    centre = (rate + room / 2) / (1 + room)
    half = _Z / (1 + room) * sqrt(rate * (1 - rate) / decided + room / (4 * decided))
    # At the ends rounding alone could leave the bounds that are exact there.
    return (0.0 if wins == 0 else centre - half), (1.0 if wins == decided else centre + half)


def ratio_interval(
    above: Sequence[float], below: Sequence[float], groups: Sequence[Hashable], seed: int = 0
) -> tuple[float, Interval]:
    """Return the ratio of two means over the same rows and its 95 % percentile interval (Efron 1979).

    Groups are drawn with replacement, not rows: interactions of one conversation are alike. For a mean, and not a
    ratio, `below` is all ones. Raises ValueError without rows or where `below` has no positive sum.
    """
    if not len(above) or len(above) != len(below) or len(above) != len(groups) or not sum(below) > 0:
        raise ValueError("a ratio needs rows, and a positive sum under the line")
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    sums_G2 = np.zeros((len(numbers), 2))
    for group, *values in zip(groups, above, below, strict=True):
        sums_G2[numbers[group]] += values
    count = len(numbers)
    drawn_RG = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    tops_R, bottoms_R = (drawn_RG @ sums_G2).T
    total, under = sums_G2.sum(0)
    ratios = tops_R[bottoms_R > 0] / bottoms_R[bottoms_R > 0]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(total / under), (float(low), float(high))
