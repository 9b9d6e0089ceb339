"""Replayed answers: two processes train like one with twice the gradient accumulation, and one can resume for two."""

import shutil

import pytest

from tests.worlds import curve, run_job, write_replay

pytestmark = pytest.mark.slow

SIZES = {"one": {"bs": 4, "ga": 2, "gpus": 1}, "two": {"bs": 4, "ga": 1, "gpus": 2}}


@pytest.fixture(scope="module")
def replay(tmp_path_factory):
    return write_replay(tmp_path_factory.mktemp("replay") / "rows.jsonl", 32)


@pytest.fixture(scope="module")
def runs(replay, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, sizes in SIZES.items():
        run_job(None, folder / name, replay_jsonl=replay, train_n=32, eval_n=0, run_id="resumed", **sizes)
    return folder


def test_two_processes_train_like_one_with_twice_the_accumulation(runs):
    one, two = curve(runs / "one"), curve(runs / "two")
    assert len(one) == 4 and one[-1][0] == 32
    for row, other in zip(one, two, strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_a_run_of_two_processes_resumes_with_one(runs, replay, tmp_path):
    shutil.copytree(runs / "two", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    (tmp_path / "run" / "summary.json").unlink()
    sizes = SIZES["one"]
    done = run_job(None, tmp_path / "run", replay_jsonl=replay, train_n=32, eval_n=0, run_id="resumed", **sizes)
    assert "2 process(es)" in done.stdout
    for row, other in zip(curve(tmp_path / "run"), curve(runs / "two"), strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_resuming_with_another_number_of_rows_per_step_is_refused(runs, replay, tmp_path):
    shutil.copytree(runs / "one", tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    given = {"replay_jsonl": replay, "train_n": 32, "eval_n": 0, "run_id": "resumed"}
    done = run_job(None, tmp_path / "run", expect=1, bs=8, ga=2, gpus=1, **given)
    assert "8 rows" in done.stderr and "16" in done.stderr
