"""Whether chance explains a change: exact tests of paired and of unpaired shares, and Holm's correction for several.

Pure functions of numbers. A p-value is one-sided: the probability of a change at least this large without a difference.
"""

from collections.abc import Sequence
from math import comb, erfc, sqrt

_EXACT_FLIPS = 1000  # above, the normal approximation has the same digits
_INTEGER = 0.05  # how near to a whole number a count must be that is computed from rounded figures


def paired_p_value(items: int, loss: float, standard_error: float) -> float:
    """Return the p-value of a mean loss over the same items; 1 without items or without a loss.

    `standard_error` is that of the mean of the paired differences. Where each item is right or wrong, the numbers of
    items that changed follow from the three numbers, and the test is McNemar's exact one. Otherwise it is the score
    test, the sum of the differences over the root of the sum of their squares: it needs no estimate of a variance,
    which would be too small where few items changed.
    """
    if items < 1 or loss <= 0:
        return 1.0
    total = items * loss
    flips = _flips(items, total, standard_error)
    if flips is None:
        return _above(total / sqrt(_squares(items, loss, standard_error)))
    lost = (flips + round(total)) // 2
    return sign_p_value(lost, flips - lost)


def sign_p_value(for_it: int, against: int) -> float:
    """Return the p-value of so many cases for a change and against it, by the exact sign test; 1 without any."""
    cases = for_it + against
    if cases > _EXACT_FLIPS:
        return _above((2 * for_it - 1 - cases) / sqrt(cases))
    return sum(comb(cases, count) for count in range(for_it, cases + 1)) / 2**cases


def risen_share_p_value(before: float, after: float, answers_before: int, answers_after: int) -> float:
    """Return the p-value of a share that rose between two sets of so many answers, by Fisher's exact test."""
    first, second = round(before * answers_before), round(after * answers_after)
    if min(answers_before, answers_after) < 1 or after <= before:
        return 1.0
    both = first + second
    counts = range(second, min(both, answers_after) + 1)
    cases = sum(comb(answers_after, count) * comb(answers_before, both - count) for count in counts)
    return cases / comb(answers_before + answers_after, both)


def holm(p_values: Sequence[float], level: float = 0.05) -> list[bool]:
    """Return which hypotheses of no difference are rejected (Holm 1979).

    The probability that any is rejected wrongly is at most `level`, however the tests depend on each other.
    """
    rejected = [False] * len(p_values)
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    for rank, index in enumerate(order):
        if p_values[index] > level / (len(p_values) - rank):
            break
        rejected[index] = True
    return rejected


def _squares(items: int, mean: float, standard_error: float) -> float:
    """Return the sum of the squared differences."""
    return standard_error**2 * items * (items - 1) + items * mean**2


def _flips(items: int, total: float, standard_error: float) -> int | None:
    """Return how many items went from right to wrong or back; None if the items are not of that kind."""
    difference = round(total)
    if abs(total - difference) > _INTEGER:
        return None
    # Whether the standard error was computed with n or with n - 1 is unknown: one of the two gives whole numbers.
    squares = _squares(items, total / items, standard_error)
    for candidate in (squares, squares + (standard_error * sqrt(items)) ** 2):
        flips = round(candidate)
        if abs(candidate - flips) <= _INTEGER and flips >= difference and (flips - difference) % 2 == 0:
            return flips
    return None


def _above(z: float) -> float:
    return erfc(z / sqrt(2)) / 2
