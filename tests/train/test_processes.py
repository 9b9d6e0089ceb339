"""Replayed answers: two processes train like one with twice the gradient accumulation, and one can resume for two.

The runs rehearse prompts of their own, so that is part of what is equal.
"""

import shutil

import pytest

from sdpo.text.records import Prompt, prompt_lines
from sdpo.tiny.data import posts
from tests.worlds import curve, rows_of, run_job, write_replay

pytestmark = pytest.mark.slow

SIZES = {"one": {"bs": 4, "ga": 2, "gpus": 1}, "two": {"bs": 4, "ga": 1, "gpus": 2}}


@pytest.fixture(scope="module")
def replay(tmp_path_factory):
    return write_replay(tmp_path_factory.mktemp("replay") / "rows.jsonl", 32)


@pytest.fixture(scope="module")
def given(replay, tmp_path_factory):
    prompts = tmp_path_factory.mktemp("rehearsal") / "prompts.jsonl"
    rows = [Prompt(str(number), row.prompt) for number, row in enumerate(posts(16, 3, False, "rehearsal"))]
    prompts.write_text("".join(prompt_lines(rows)), "utf-8")
    rehearsal = {"rehearsal": 1, "rehearsal_jsonl": prompts}
    return {"replay_jsonl": replay, "train_n": 32, "eval_n": 0, "run_id": "resumed", **rehearsal}


@pytest.fixture(scope="module")
def runs(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, sizes in SIZES.items():
        run_job(None, folder / name, **given, **sizes)
    return folder


def measures(run):
    return [
        [*row, metrics["rehearsal"]] for row, metrics in zip(curve(run), rows_of(run / "metrics.jsonl"), strict=True)
    ]


def test_two_processes_train_like_one_with_twice_the_accumulation(runs):
    one, two = measures(runs / "one"), measures(runs / "two")
    assert len(one) == 4 and one[-1][0] == 32
    assert one[0][-1] == pytest.approx(0, abs=1e-5) and one[-1][-1] > 1e-3
    for row, other in zip(one, two, strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_a_run_of_two_processes_resumes_with_one(runs, given, tmp_path):
    shutil.copytree(runs / "two", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    (tmp_path / "run" / "summary.json").unlink()
    done = run_job(None, tmp_path / "run", **given, **SIZES["one"])
    assert "2 process(es)" in done.stdout
    for row, other in zip(measures(tmp_path / "run"), measures(runs / "two"), strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_resuming_with_another_number_of_rows_per_step_is_refused(runs, given, tmp_path):
    shutil.copytree(runs / "one", tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    done = run_job(None, tmp_path / "run", expect=1, bs=8, ga=2, gpus=1, **given)
    assert "8 rows" in done.stderr and "16" in done.stderr
