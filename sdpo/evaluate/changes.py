"""What got worse and what got better in each answer of a checkpoint, against the baseline's to the same prompt."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from sdpo.evaluate.comparison import Comparison
from sdpo.evaluate.win_rates import BASELINE
from sdpo.users.judge import outcome

Change = Literal["lost", "unfit", "empty", "longer", "shorter", "won", "fit"]

# Change -> (its text on a page, whether it is for the worse), the gravest first.
REASONS: Mapping[Change, tuple[str, bool]] = MappingProxyType(
    {
        "empty": ("says nothing any more", True),
        "lost": ("lost in both orders", True),
        "unfit": ("fitted the style before, not now", True),
        "longer": ("more than twice as long", True),
        "shorter": ("less than half as long", True),
        "won": ("won in both orders", False),
        "fit": ("fits the style now, not before", False),
    }
)
_FACTOR, _CHARACTERS = 2, 40  # an answer is much longer if it is so by both


def changes(comparison: Comparison) -> dict[str, dict[str, list[list[Change]]]]:
    """Return judge -> checkpoint -> the changes in the answer to each prompt, in the order of REASONS."""
    return {
        judge: {
            name: [
                [change for change in REASONS if change in found]
                for found in _of_answers(comparison, name, [pair and outcome(pair) for pair in verdict_pairs])
            ]
            for name, verdict_pairs in by_name.items()
        }
        for judge, by_name in comparison.verdict_pairs.items()
    }


def counts(own: Sequence[Sequence[Change]]) -> dict[Change, int]:
    """Return how many answers have each change."""
    return {change: sum(change in found for found in own) for change in REASONS}


def _of_answers(comparison: Comparison, name: str, outcomes: Sequence[str | None]) -> list[set[Change]]:
    answers, fits = comparison.answers, comparison.fits
    unknown = [None] * len(outcomes)
    rows = zip(
        outcomes,
        answers[name],
        answers[BASELINE],
        fits.get(name, unknown),
        fits.get(BASELINE, unknown),
        strict=True,
    )
    return [
        _of_answer(result, own.text.strip(), other.text.strip(), now, before)
        for result, own, other, now, before in rows
    ]


def _of_answer(result: str | None, own: str, other: str, now: bool | None, before: bool | None) -> set[Change]:
    found: set[Change] = set()
    if result in ("first", "second"):
        found.add("won" if result == "first" else "lost")
    if now is not None and now != before:
        found.add("fit" if now else "unfit")
    if other and not own:
        found.add("empty")
    elif len(own) > max(_FACTOR * len(other), len(other) + _CHARACTERS):
        found.add("longer")
    elif len(other) > max(_FACTOR * len(own), len(own) + _CHARACTERS):
        found.add("shorter")
    return found
