"""What counts as worse and as better in an answer."""

import pytest

from sdpo.evaluate.answers import Answer
from sdpo.evaluate.changes import changes, counts
from sdpo.evaluate.comparison import Comparison
from sdpo.evaluate.prompts import EvaluationPrompt

WORDS = "a plain answer of about fifty characters, no more."


def compared(own, other, verdicts=None, fits=None):
    comparison = Comparison(
        [EvaluationPrompt("1", "x", [])], 0, "", {}, {}, {"baseline": [Answer(other)], "checkpoint-2": [Answer(own)]},
        {"m": {"checkpoint-2": [verdicts]}}, [], [], [], fits=fits or {},
    )  # fmt: skip
    return changes(comparison)["m"]["checkpoint-2"][0]


@pytest.mark.parametrize(
    ("own", "other", "verdicts", "found"),
    [
        (WORDS, WORDS, None, []),
        ("same", "other", ("A", "B"), ["won"]),
        ("same", "other", ("B", "A"), ["lost"]),
        ("same", "other", ("B", "B"), []),
        ("same", "other", (None, "A"), []),
        ("  ", WORDS, ("B", "A"), ["empty", "lost"]),
        (WORDS * 3, WORDS, ("A", "B"), ["longer", "won"]),
        (WORDS, WORDS * 3, None, ["shorter"]),
        (WORDS * 2, WORDS, None, []),
        ("a few words", "one", None, []),  # longer by a factor, but by few characters
        ("", "", None, []),
    ],
)
def test_each_change_is_named(own, other, verdicts, found):
    assert compared(own, other, verdicts) == found


def test_the_style_is_compared_where_something_reads_it():
    assert compared("x", "y", None, {"baseline": [True], "checkpoint-2": [False]}) == ["unfit"]
    assert compared("x", "y", None, {"baseline": [False], "checkpoint-2": [True]}) == ["fit"]
    assert compared("x", "y", None, {"baseline": [False], "checkpoint-2": [False]}) == []
    assert counts([["lost", "unfit"], ["lost"]])["lost"] == 2
