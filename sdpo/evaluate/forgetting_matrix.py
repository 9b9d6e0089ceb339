"""The matrix of every taste after every run, and what it says of forgetting. Plain values, no models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from sdpo.runtime import statistics
from sdpo.users.judge import VerdictPair, outcome

ADHERENCE, WIN_RATE = "adherence", "win rate"


@dataclass(frozen=True)
class Cell:
    """How far one model's answers suit one taste: the value, its 95 % interval, and the number of answers behind it.

    `fits` are the answers in the order of the prompts, empty for a win rate. A win rate without a winner is None.
    """

    measure: str
    value: float | None
    low: float | None
    high: float | None
    answers: int
    fits: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Forgotten:
    """A taste right after its run and after the last one. `difference` is the second less the first.

    `standard_error` is that of the mean of the paired differences, None for win rates.
    """

    taste: str
    learned_after: str
    learned: float | None
    last: float | None
    difference: float | None
    standard_error: float | None


@dataclass(frozen=True)
class Matrix:
    """`cells` has a cell for each model (in the order of training) and taste; `learned_after` the tastes' own runs."""

    models: Sequence[str]
    tastes: Sequence[str]
    cells: Mapping[tuple[str, str], Cell]
    learned_after: Mapping[str, str]

    def forgotten(self) -> list[Forgotten]:
        """Return what became of each taste whose run is not the last one."""
        rows: list[Forgotten] = []
        for taste in self.tastes:
            own, last = self.learned_after[taste], self.models[-1]
            if own == last:
                continue
            before, after = self.cells[own, taste], self.cells[last, taste]
            known = before.value is not None and after.value is not None
            difference = after.value - before.value if known else None  # type: ignore[operator]  # both are numbers
            paired = [int(one) - int(other) for one, other in zip(after.fits, before.fits, strict=True)]
            error = stdev(paired) / sqrt(len(paired)) if len(paired) > 1 else None
            rows.append(Forgotten(taste, own, before.value, after.value, difference, error))
        return rows

    def mean_forgotten(self) -> float | None:
        """Return the mean difference over the tastes whose run is not the last one; None without any."""
        known = [row.difference for row in self.forgotten() if row.difference is not None]
        return fmean(known) if known else None


def adherence_cell(fits: Sequence[bool]) -> Cell:
    """Return the share of the answers that fit, with Wilson's interval."""
    share, (low, high) = sum(fits) / len(fits), statistics.wilson(sum(fits), len(fits) - sum(fits)) or (0.0, 1.0)
    return Cell(ADHERENCE, share, low, high, len(fits), tuple(fits))


def win_rate_cell(verdict_pairs: Sequence[VerdictPair | None]) -> Cell:
    """Return the win rate against the start model over the pairs that have a winner, with Wilson's interval."""
    outcomes = [outcome(pair) for pair in verdict_pairs if pair is not None]
    wins, losses = outcomes.count("first"), outcomes.count("second")
    rate, interval = statistics.win_rate(wins, losses), statistics.wilson(wins, losses)
    low, high = interval or (None, None)
    return Cell(WIN_RATE, rate[0] if rate else None, low, high, wins + losses)
