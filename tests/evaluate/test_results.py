"""What an evaluation says at its end: of which checkpoint, and what to do with it."""

import re
from dataclasses import replace

import pytest

from sdpo.evaluate import results
from sdpo.evaluate.answers import Answer
from sdpo.evaluate.comparison import Comparison
from sdpo.evaluate.prompts import EvaluationPrompt
from sdpo.evaluate.release_rules import PROMOTE_WITH_WARNING, Decision, Release
from sdpo.evaluate.trained_run import TrainedRun
from sdpo.evaluate.win_rates import WinRate, agreement, table_rows
from sdpo.runtime.run_directory import RunDirectory
from sdpo.runtime.statistics import wilson
from sdpo.settings import EvalSettings

WINS = WinRate(3, "somebody", prompts=2, wins=2, win_rate=1.0)
TIES = WinRate(6, "somebody", prompts=2, ties=2)


def ending(tmp_path, capsys, rows, chosen: int | None) -> str:
    """Return the last lines of an evaluation of the rows' checkpoints, of which this one is released."""
    release = None if chosen is None else Release(chosen, PROMOTE_WITH_WARNING, ())
    comparison = Comparison(
        prompts=[EvaluationPrompt("a", "Question one", []), EvaluationPrompt("b", "Question two", [])],
        too_long=0,
        persona="",
        weights={},
        generated={},
        answers={name: [Answer(f"{name} says {n}") for n in "12"] for name in ("baseline", *map(_name, rows))},
        verdict_pairs={},
        rows=rows,
        agreement=[],
        warnings=[],
        release=Decision((), release),
    )
    results._say_what_came_of_it(
        RunDirectory(tmp_path / "eval"),
        EvalSettings(),
        TrainedRun(tmp_path, settings={"model": "the/start"}),
        comparison,
    )
    return capsys.readouterr().out


def _name(row: WinRate) -> str:
    return f"checkpoint-{row.checkpoint}"


def test_judges_agree_on_nothing_where_a_verdict_cannot_be_read():
    unread, read = (
        {"checkpoint-1": [(None, None)] * 9 + [("A", "B")]},
        {"checkpoint-1": [(None, "A")] * 9 + [("B", "A")]},
    )
    (row,) = agreement({"one": unread, "other": read})
    assert (row["pairs"], row["agreement"]) == (1, 0.0)
    (row,) = agreement(
        {"one": {"checkpoint-1": unread["checkpoint-1"][:9]}, "other": {"checkpoint-1": read["checkpoint-1"][:9]}}
    )
    assert (row["pairs"], row["agreement"]) == (0, None)


def test_in_a_table_the_prompts_of_one_conversation_count_as_one():
    """Nine turns each of two conversations: all of one win, all of the other lose; ties of a third say nothing."""
    answers = {name: [Answer(f"{name} {n}") for n in range(20)] for name in ("baseline", "checkpoint-3")}
    verdicts = {"somebody": {"checkpoint-3": [("A", "B")] * 9 + [("B", "A")] * 9 + [("tie", "tie")] * 2}}
    conversations = ["one"] * 9 + ["two"] * 9 + ["three"] * 2
    apart, together = (table_rows([3], answers, verdicts, of, seed=0)[0] for of in (range(20), conversations))
    assert (
        (apart.wins, apart.losses, apart.win_rate) == (together.wins, together.losses, together.win_rate) == (9, 9, 0.5)
    )
    assert apart.design_effect == 1 and (apart.wilson_low, apart.wilson_high) == pytest.approx(wilson(9, 9), abs=1e-6)
    assert together.design_effect == 9
    assert (together.wilson_low, together.wilson_high) == pytest.approx(wilson(1, 1), abs=1e-6)
    assert together.standard_error == pytest.approx(0.5 / 2**0.5, abs=1e-6)
    assert apart.bootstrap_low > 0.2 and (together.bootstrap_low, together.bootstrap_high) == (0.0, 1.0)


def test_only_the_released_checkpoint_is_spoken_of_and_served(tmp_path, capsys):
    said = ending(tmp_path, capsys, [WINS, TIES], chosen=6)
    assert "checkpoint-3" not in said and "checkpoint-6 says 1" in said
    assert "No answer of checkpoint-6 is judged better or worse than the baseline's; verdict: promote with" in said
    assert f"SERVED_NAME={tmp_path / 'checkpoint-6'} BASE_NAME=the/start)" in said
    assert re.search(
        r"next: \S*bin/transformers serve --port", said
    )  # make simulator would answer for both names with one model
    assert "checkpoint-3 wins 2 of 2 decided pairs" in ending(tmp_path, capsys, [WINS, TIES], chosen=3)


def test_without_a_released_one_the_best_is_spoken_of_if_any_pair_is_decided(tmp_path, capsys):
    said = ending(tmp_path, capsys, [replace(WINS, checkpoint=9, win_rate=0.5, losses=2), WINS, TIES], chosen=None)
    assert "checkpoint-3 wins 2 of 2" in said and "verdict: keep" in said and "next: make report" in said
    assert "No answer is judged better or worse than the baseline's." in ending(tmp_path, capsys, [TIES], chosen=None)
    same = replace(TIES, same=TIES.prompts)
    assert "No checkpoint differs from the baseline in any answer." in ending(tmp_path, capsys, [same], chosen=None)
