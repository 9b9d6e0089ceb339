"""What an evaluation says at its end: of which checkpoint, and what to do with it."""

from dataclasses import replace

from sdpo.evaluate import results
from sdpo.evaluate.answers import Answer
from sdpo.evaluate.comparison import Comparison
from sdpo.evaluate.prompts import EvaluationPrompt
from sdpo.evaluate.release_rules import PROMOTE_WITH_WARNING, Decision, Release
from sdpo.evaluate.trained_run import TrainedRun
from sdpo.evaluate.win_rates import WinRate
from sdpo.runtime.run_directory import RunDirectory
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
    results._say_what_came_of_it(RunDirectory(tmp_path / "eval"), EvalSettings(), TrainedRun(tmp_path), comparison)
    return capsys.readouterr().out


def _name(row: WinRate) -> str:
    return f"checkpoint-{row.checkpoint}"


def test_only_the_released_checkpoint_is_spoken_of_and_served(tmp_path, capsys):
    said = ending(tmp_path, capsys, [WINS, TIES], chosen=6)
    assert "checkpoint-3" not in said and "checkpoint-6 says 1" in said
    assert "No answer of checkpoint-6 is judged better or worse than the baseline's; verdict: promote with" in said
    assert f"SERVED_NAME={tmp_path / 'checkpoint-6'}" in said
    assert "checkpoint-3 wins 1.00 of 2 decided pairs" in ending(tmp_path, capsys, [WINS, TIES], chosen=3)


def test_without_a_released_one_the_best_is_spoken_of_if_any_pair_is_decided(tmp_path, capsys):
    said = ending(tmp_path, capsys, [replace(WINS, checkpoint=9, win_rate=0.5, losses=2), WINS, TIES], chosen=None)
    assert "checkpoint-3 wins 1.00" in said and "verdict: keep" in said and "next: make report" in said
    assert "No checkpoint differs from the baseline in any answer." in ending(tmp_path, capsys, [TIES], chosen=None)
