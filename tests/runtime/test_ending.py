"""What jobs end with: a sentence, files, the next command; and answers side by side within the terminal's width."""

from pathlib import Path

import pytest

from sdpo.runtime import ending
from sdpo.runtime.columns import side_by_side, spread
from sdpo.runtime.commands import command
from sdpo.runtime.evaluation import next_evaluation
from sdpo.runtime.run_directory import RunDirectory

LONG = "one two three four five six seven eight nine ten " * 30


def test_a_job_ends_with_a_sentence_the_files_and_the_next_command(capsys):
    then = command("eval", run_dir=Path("runs/a run"), judge_model=None, tiny=True)
    ending.say("It worked.", {"picture": Path("runs/a run/training.png")}, then, "compares")
    assert capsys.readouterr().out == (
        "It worked.\npicture: runs/a run/training.png\nnext: make eval RUN_DIR='runs/a run' TINY=1  (compares)\n"
    )
    ending.say("Nothing follows.")
    assert capsys.readouterr().out == "Nothing follows.\n"


@pytest.mark.parametrize(
    ("recorded", "summary", "expected"),
    [
        ({}, {}, ("make eval RUN_DIR={run}", "; claude-haiku-4-5-20251001 judges, or the model of JUDGE_MODEL=...")),
        ({"job": "train-online-tldr"}, {}, ("make eval RUN_DIR={run}", "; Qwen/Qwen3-8B judges, or the model of J")),
        ({"world_size": 4, "nnodes": 1}, {}, ("make eval RUN_DIR={run} GPUS=4", "; claude")),
        ({"world_size": 16, "nnodes": 2}, {}, ("make eval RUN_DIR={run}", "; claude")),
        ({"user_model_name_or_path": "rule"}, {}, ("make eval RUN_DIR={run} JUDGE_MODEL=rule", "")),
        ({"user_model_name_or_path": "rule", "tiny": True}, {}, ("make eval RUN_DIR={run} TINY=1", "")),
        (
            {"user_model_name_or_path": "rule", "tiny": True, "style": "short"},
            {},
            ("make eval RUN_DIR={run} TINY=1", ""),
        ),
        (
            {"user_model_name_or_path": "rule", "tiny": True, "style": "mine"},
            {},
            ("make eval RUN_DIR={run} JUDGE_MODEL=rule TINY=1", ""),
        ),
        ({}, {"stopped_by_guard": {}, "best_checkpoint": "checkpoint-5"}, ("make eval RUN_DIR={run}", "; claude")),
        ({}, {"stopped_by_guard": {}, "best_checkpoint": None}, None),
    ],
)
def test_a_run_s_next_command_evaluates_it_unless_no_checkpoint_is_good(tmp_path, recorded, summary, expected):
    run = RunDirectory(tmp_path)
    assert next_evaluation(run) == ("", "")  # no checkpoint
    (tmp_path / "checkpoint-5").mkdir()
    run.mark_complete(5)
    run.write_json("run.json", {"job": recorded.get("job", "train-offline"), "settings": recorded})
    run.write_json("summary.json", summary)
    run.write_json(
        "styles.json", {"short": {"persona": "Short."}, "mine": {"persona": "Mine.", "rule": {"lacks": "!"}}}
    )
    then, why = next_evaluation(run)
    if expected is None:
        assert (then, why) == ("", "")
    else:
        words = set(then.split())
        assert words == set(expected[0].format(run=tmp_path).split())
        assert why.startswith("compares its checkpoints with the model before" + expected[1])
        assert expected[1] or ";" not in why


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_answers_side_by_side_fit_the_terminal(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = side_by_side([(LONG, LONG, "short"), ("two", "a\nb", LONG)]).splitlines()
    assert max(map(len, lines)) <= min(columns, 120)
    assert [line.split(" | ")[1] for line in lines if line.startswith("before")] == ["after", "after"]
    assert "…" in lines[0] and any(line.startswith("…") or "| …" in line for line in lines)


def test_the_answers_shown_are_spread_over_all():
    rows = [(str(number), "", "") for number in range(10)]
    assert [prompt for prompt, _, _ in spread(rows, 3)] == ["0", "3", "6"]
    assert spread(rows[:1], 3) == rows[:1] and spread([], 3) == []
