"""Training and evaluation end to end: oracle and tiny judge both see what SDPO has taught."""

import json
import sys

import pytest

from tests import forks
from tests.evaluations import add_checkpoint, evaluate, make_run, read
from tests.servers import FakeServer
from tests.worlds import environment, run_job, user_by_rule

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    """A run of the online job and the evaluation job's process, started from its command line."""
    out = tmp_path_factory.mktemp("trained") / "run"
    with FakeServer(user_by_rule()) as server:
        run_job(server.url, out, train_n=480, save_steps=15, eval_n=0)
    command = [sys.executable, "-m", "jobs.eval", "--tiny", "--run-dir", str(out), "--eval-n", "96"]
    done = forks.run(command, env=environment(), timeout=600, cwd=out.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return out, done


def test_trained_checkpoints_win_by_the_oracle_and_by_the_tiny_judge(trained_run):
    report = read(trained_run[0])
    last = {row["judge"]: row for row in report["rows"] if row["checkpoint"] == 30}
    assert last["oracle"]["win_rate"] >= 0.9 and last["tiny"]["win_rate"] >= 0.8
    assert last["oracle"]["wilson_low"] > 0.8 and not last["oracle"]["length_explains"]
    assert last["oracle"]["wins"] > 24  # about half of the baseline's answers have an emoji
    (pair,) = report["agreement"]
    assert pair["judges"] == ["oracle", "tiny"] and pair["kappa"] > 0.8


def test_the_run_recorded_its_job_persona_and_system_prompt(trained_run):
    started = json.loads((trained_run[0] / "run.json").read_text())
    assert started["job"] == "train-online-tldr" and started["persona"] and started["system_prompt"]
    assert "note:" not in trained_run[1].stdout
    # The tiny judge was trained on styles alone, and the labelled pairs show that.
    warnings = [line for line in trained_run[1].stdout.splitlines() if line.startswith("warning:")]
    assert len(warnings) == 1 and "labelled pairs" in warnings[0] and "tiny" in warnings[0]


def test_the_figure_and_tables_are_written(trained_run):
    out, done = trained_run
    assert (out / "eval" / "winrate.png").read_bytes().startswith(b"\x89PNG")
    for name in ("pairs.html", "winrate.png", "eval.csv", "eval.json", "report.html"):
        assert str(out / "eval" / name) in done.stdout


def test_two_samples_of_the_baseline_are_even(tmp_path):
    """The noise changes the fingerprint of the weights, and so the random draws, but not the model's behaviour."""
    run = make_run(tmp_path / "run")
    add_checkpoint(run, 3, noise=1e-7)
    (row,) = evaluate(run, eval_n=192, eval_batch_size=64)["rows"]
    assert row["wins"] + row["losses"] > 60
    assert row["wilson_low"] < 0.5 < row["wilson_high"] and row["bootstrap_low"] < 0.5 < row["bootstrap_high"]
    assert not row["length_explains"]
