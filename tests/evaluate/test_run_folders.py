"""RUN_DIR that names no run, and runs without a checkpoint: the message has the runs there are, or what to do."""

from pathlib import Path

import pytest

from jobs import eval as eval_job
from jobs import eval_tldr, report
from sdpo.evaluate.run_folders import beside
from sdpo.runtime.launch import main
from sdpo.runtime.run_directory import RunDirectory
from tests.evaluations import make_run

pytestmark = pytest.mark.usefixtures("empty_folder")


def error_of(job, capsys, *flags: str) -> str:
    """Return the one line with which the job fails."""
    assert main(job, list(flags)) in (1, 2)
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    return line


def test_a_folder_of_a_run_is_shown_as_the_run_is_given():
    run, elsewhere = Path("runs/mine"), Path("/elsewhere/eval")
    assert beside(run, run.absolute() / "eval") == run / "eval" == beside(run, run / "eval")
    assert beside(run.absolute(), run / "eval") == run.absolute() / "eval"
    assert beside(run, elsewhere) == elsewhere


@pytest.mark.parametrize("job", [eval_job.JOB, eval_tldr.JOB, report.JOB])
def test_a_run_that_does_not_exist_is_answered_with_the_nearest_ones(job, capsys):
    assert "SCRATCH=runs has no run either" in error_of(job, capsys, "--run-dir", "frist")
    for name in ("first", "20261101-101010", "b", "c", "d", "e"):
        make_run(Path("runs/sdpo-tldr-runs") / name)
    line = error_of(job, capsys, "--run-dir", "frist")
    assert "RUN_DIR=frist does not exist. The runs in runs, nearest names first: runs/sdpo-tldr-runs/first, " in line
    assert line.count("runs/sdpo-tldr-runs/") == 5 and line.endswith(", and 1 more. Give one of them.")
    other = make_run(Path("runs/sdpo-tldr-runz/frist"))
    RunDirectory(other).write_json("run.json", {"job": "audit"})
    line = error_of(job, capsys, "--run-dir", "runs/sdpo-tldr-runz/first")
    assert (str(other) in line) == (job is report.JOB)  # an audit cannot be evaluated
    make_run(Path("elsewhere/kind/mine"))
    line = error_of(job, capsys, "--run-dir", "nine", "--scratch", "elsewhere")
    assert "The runs in elsewhere, nearest names first: elsewhere/kind/mine. Give" in line


def test_a_night_of_learning_is_answered_with_its_evaluation_and_run(capsys):
    night = make_run(Path("runs/learn/night"))
    RunDirectory(night).write_json("run.json", {"job": "learn", "settings": {}})
    line = error_of(eval_tldr.JOB, capsys, "--run-dir", str(night))
    assert "is a night of make learn" in line and str(night / "evaluation") in line and str(night / "train") in line


def test_a_folder_of_runs_names_one_in_it(capsys):
    make_run(Path("runs/sdpo-tldr-runs/first"))
    for folder in ("runs", "runs/sdpo-tldr-runs"):
        assert "Give one in it, such as runs/sdpo-tldr-runs/first." in error_of(
            eval_job.JOB, capsys, "--run-dir", folder
        )


@pytest.mark.parametrize(
    ("summary", "words"),
    [
        (
            {"stopped_by_guard": {"step": 6}},
            "The guard stopped it before its first one. Train anew with another RUN_ID",
        ),
        ({"finished": True}, "It is finished, and they are no longer in its folder. Train anew with another RUN_ID."),
    ],
)
def test_a_run_that_ended_without_a_checkpoint_is_not_to_be_resumed(summary, words, capsys):
    folder = make_run(Path("runs/sdpo-tldr-runs/first"), save_steps=200)
    RunDirectory(folder).write_json("summary.json", summary)
    line = error_of(eval_tldr.JOB, capsys, "--run-dir", str(folder), "--tiny")
    assert f"has no complete checkpoint. {words}" in line and "esume" not in line


def test_a_run_without_a_checkpoint_says_how_it_goes_on(capsys):
    folder = make_run(Path("runs/sdpo-tldr-runs/first"), save_steps=200)
    line = error_of(eval_tldr.JOB, capsys, "--run-dir", str(folder), "--tiny")
    assert "has no complete checkpoint. It ended before its first one, which SAVE_STEPS=200 writes at step 200." in line
    assert "Run its command again" in line
    written = RunDirectory(folder).read_json("run.json")
    RunDirectory(folder).write_json("run.json", written | {"given": {"lr": 1e-5, "eval_n": 0, "world_size": 1}})
    line = error_of(eval_tldr.JOB, capsys, "--run-dir", str(folder), "--tiny")
    assert f"Resume it with: make train-online-tldr LR=1e-5 EVAL_N=0 GPUS=1 OUTPUT_DIR={folder} (or train anew" in line
