"""The release of an evaluation end to end: what is promoted and what is kept, on screen, on disk, as an exit code."""

import shutil

import pytest

from benchmarks.release import Harm, failed, make_run, tiny_world
from sdpo.errors import KEEP_EXIT_CODE
from sdpo.runtime.run_directory import RunDirectory
from tests.evaluations import evaluate, released

pytestmark = pytest.mark.slow

WITH_CONDITION = {"condition": 1, "eval_n": 64, "eval_batch_size": 64, "ckpts": "all"}


@pytest.fixture(scope="module")
def harm():
    return Harm(tiny_world())


@pytest.fixture(scope="module")
def healthy(harm, tmp_path_factory):
    """A run whose one checkpoint was trained on its own answers that fit the style."""
    return make_run(tmp_path_factory.mktemp("healthy") / "run", "healthy", 1, harm)


def page_of(run) -> str:
    return (run / "eval" / "pairs.html").read_text("utf-8")


def test_a_healthy_checkpoint_is_promoted_and_what_was_not_measured_is_a_warning(healthy, capsys):
    evaluate(healthy, expect=0, **WITH_CONDITION)
    release = released(healthy)
    assert (release["verdict"], release["checkpoint"]) == ("promote with a warning", 1)
    assert not failed(release["releases"][0])
    assert any("benchmarks" in reason for reason in release["releases"][0]["reasons"])
    assert f"verdict: {release['sentence']}" in capsys.readouterr().out
    assert page_of(healthy).index(release["sentence"]) < page_of(healthy).index("Persona")


def test_benchmarks_complete_the_evidence(healthy, tmp_path):
    run = shutil.copytree(healthy, tmp_path / "run")
    evaluate(run, expect=0, benchmarks="sdpo_tiny", **WITH_CONDITION)
    rules = {rule["name"]: rule for rule in released(run)["releases"][0]["rules"]}
    assert rules["benchmark sdpo_tiny"]["outcome"] == "passed"


def test_a_harmed_checkpoint_is_kept_though_it_gained(healthy, harm, tmp_path, capsys):
    run = shutil.copytree(healthy, tmp_path / "run", ignore=shutil.ignore_patterns("eval", "checkpoint-*"))
    folder = run / "checkpoint-1"
    shutil.copytree(healthy / "checkpoint-1", folder)
    harm.make("shortened", 1).save_pretrained(folder)
    RunDirectory(run).mark_complete(1)
    evaluate(run, expect=KEEP_EXIT_CODE, **WITH_CONDITION)
    release = released(run)
    assert (release["verdict"], release["checkpoint"]) == ("keep", None)
    assert failed(release["releases"][0]) & {"length", "fluency", "surprise"}
    assert "FAIL_ON_KEEP=0" in capsys.readouterr().out
    evaluate(run, expect=0, fail_on_keep=0, **WITH_CONDITION)
    assert released(run)["verdict"] == "keep"


def test_the_baseline_against_itself_is_no_gain(healthy, harm, tmp_path):
    run = make_run(tmp_path / "run", "unchanged", 1, harm)
    evaluate(run, expect=KEEP_EXIT_CODE, **WITH_CONDITION)
    release = released(run)["releases"][0]
    assert failed(release) == {"gain"} and "no gain" in release["reasons"][0]
