"""How a checkpoint's benchmark results differ from the baseline's, item by item."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Any

import numpy as np

from sdpo.evaluate.evidence import BenchmarkChange

_RESAMPLES = 100
# The error of a mean difference of a single item, of which nothing is known: as large as a share can be.
_UNKNOWN_ERROR = 1.0


@dataclass(frozen=True)
class TaskScores:
    """One model's results on one task, by metric: lm-eval's `name,filter`, the task's main metric first.

    `values` are lm-eval's own numbers; `items` the values of the items by number, from which `combine` makes the value;
    None stands for the mean.
    """

    values: Mapping[str, float]
    items: Mapping[str, Mapping[int, Any]]
    combine: Mapping[str, Callable[[list], float] | None] = field(default_factory=dict)
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)


def change(checkpoint: int, task: str, metric: str, baseline: TaskScores, own: TaskScores) -> BenchmarkChange | None:
    """Return the change of one metric over the items that both models have; None where its items are no numbers.

    Its figures are not finite where a model's are not, as the perplexity of a broken one.
    """
    shared = [number for number in baseline.items[metric] if number in own.items.get(metric, {})]
    before = [baseline.items[metric][number] for number in shared]
    after = [own.items[metric][number] for number in shared]
    combine = own.combine.get(metric)
    if not shared:
        return None
    try:
        first, second, error = _means(before, after) if combine is None else _combined(before, after, combine)
    except (TypeError, ValueError, ZeroDivisionError):  # items that are no numbers, such as a text to be read by others
        return None
    better = own.higher_is_better.get(metric, True)
    return BenchmarkChange(checkpoint, task, metric, len(shared), first, second, second - first, error, better)


def _means(before: Sequence[float], after: Sequence[float]) -> tuple[float, float, float]:
    """Return both means, and the standard error of the mean of the paired differences."""
    first, second = [np.asarray(values, dtype=np.float64) for values in (before, after)]
    differences = second - first
    number = len(differences)
    error = float(differences.std(ddof=1)) / sqrt(number) if number > 1 else _UNKNOWN_ERROR
    return float(first.mean()), float(second.mean()), error


def _combined(before: list, after: list, combine: Callable[[list], float]) -> tuple[float, float, float]:
    """Return both values, and the standard deviation of their difference over resamples of the items."""
    number = len(before)
    draws = np.random.default_rng(0).integers(number, size=(_RESAMPLES, number))
    differences = [combine([after[i] for i in draw]) - combine([before[i] for i in draw]) for draw in draws]
    error = float(np.std(differences, ddof=1)) if number > 1 else _UNKNOWN_ERROR
    return float(combine(before)), float(combine(after)), error


def group_change(name: str, changes: Sequence[BenchmarkChange], by_size: bool) -> BenchmarkChange:
    """Return the change of a group from those of its tasks: their weighted mean, and its standard error."""
    total = sum(one.items for one in changes)
    weights = [one.items / total if by_size else 1 / len(changes) for one in changes]
    mean = {
        what: sum(weight * getattr(one, what) for weight, one in zip(weights, changes, strict=True))
        for what in ("baseline", "value")
    }
    error = sqrt(sum((weight * one.standard_error) ** 2 for weight, one in zip(weights, changes, strict=True)))
    first = changes[0]
    difference = mean["value"] - mean["baseline"]
    return BenchmarkChange(
        first.checkpoint, name, first.metric, total, mean["baseline"], mean["value"], difference, error,
        first.higher_is_better,
    )  # fmt: skip


def all_changes(
    checkpoint: int, tasks: Sequence[str], baseline: Mapping[str, TaskScores], own: Mapping[str, TaskScores]
) -> Iterator[BenchmarkChange]:
    """Yield the changes of every metric of every task, in order."""
    for task in tasks:
        for metric in own[task].values:
            if found := change(checkpoint, task, metric, baseline[task], own[task]):
                yield found
