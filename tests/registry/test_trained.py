"""A training run becomes a version: its checkpoint, the verdict of its evaluation, and what is refused."""

import json
import os

import pytest

from sdpo.errors import KEEP_EXIT_CODE
from sdpo.registry import versions
from sdpo.registry.live import Live, read_live
from sdpo.runtime.launch import main
from sdpo.runtime.run_directory import RunDirectory
from tests.commands import JOBS
from tests.evaluations import add_checkpoint, make_run
from tests.registries import write_adapter


def release(folder, chosen, **verdicts):
    """Write a release.json with these verdicts by checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    releases = [
        {"checkpoint": int(name[1:]), "verdict": verdict, "reasons": ["worse"] if verdict == "keep" else []}
        for name, verdict in verdicts.items()
    ]
    content = {"verdict": verdicts.get(f"c{chosen}", "keep"), "checkpoint": chosen, "releases": releases}
    content["sentence"] = f"promote: checkpoint-{chosen}" if chosen else "keep the model that is there"
    RunDirectory(folder).write_json("release.json", content)


@pytest.fixture
def run(tmp_path):
    run = make_run(tmp_path / "my run", adapter="lora")
    for step in (3, 6):
        write_adapter(run / f"checkpoint-{step}", seed=step)
        RunDirectory(run).mark_complete(step)
    RunDirectory(run).append("metrics.jsonl", [{"step": 6, "interactions": 96}])
    return run


def promote(run, *words, job="promote"):
    registry = run.with_name("registry")
    return main(JOBS[f"jobs.{job}"], [f"RUN_DIR={run}", f"REGISTRY={registry}", *words])


def rejected(capsys, run, *words, code=2):
    assert promote(run, *words) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and not run.with_name("registry").exists()
    return line


def test_the_checkpoint_that_the_evaluation_chose_becomes_a_version_and_goes_live(run, capsys):
    release(run / "eval", 3, c3="promote", c6="keep")
    assert promote(run, "DRY_RUN=1") == 0 and not run.with_name("registry").exists()
    said = capsys.readouterr().out
    assert f"note: checkpoint-3 of {run} would become a version of {run.with_name('registry')}." in said
    assert promote(run) == 0
    said = capsys.readouterr().out
    assert f"checkpoint-3 of {run} is v0001" in said and "v0001 is live as " in said
    registry = run.with_name("registry")
    (version,) = versions.versions(registry)
    assert read_live(registry).version == "v0001" and (version.checkpoint, version.kind) == (3, "adapter")
    assert version.verdict == {"verdict": "promote", "checkpoint": 3, "sentence": "promote: checkpoint-3"}
    assert main(JOBS["jobs.versions"], [f"REGISTRY={registry}"]) == 0
    assert "96 interactions" in capsys.readouterr().out
    assert promote(run) == 0 and len(versions.versions(registry)) == 1
    assert "v0001 was live already as " in capsys.readouterr().out


def test_a_run_that_is_kept_back_or_was_not_evaluated_goes_live_by_force_alone(run, capsys):
    line = rejected(capsys, run, code=KEEP_EXIT_CODE)
    assert (
        f"checkpoint-6 of {run} has no verdict that lets it go live: it has no evaluation in {run / 'eval'}. " in line
    )
    assert f"Evaluate it: make eval RUN_DIR='{run}'. FORCE=1 promotes it." in line
    assert promote(run, "FORCE=1") == 0
    registry = run.with_name("registry")
    assert versions.read(registry, "v0001").kept
    # An evaluation that was made since counts.
    release(run / "eval", 6, c3="keep", c6="promote")
    assert promote(run) == 0 and not versions.read(registry, "v0001").kept
    release(run / "eval" / "later", None, c3="keep")
    os.utime(run / "eval" / "release.json", (1, 1))
    capsys.readouterr()
    assert promote(run) == KEEP_EXIT_CODE
    assert "keep: checkpoint-3 (worse). FORCE=1 promotes it." in capsys.readouterr().err


def test_another_checkpoint_has_its_own_verdict(run, capsys):
    release(run / "eval", 3, c3="promote", c6="promote with a warning")
    assert promote(run, "CKPT=6") == 0
    version = versions.read(run.with_name("registry"), "v0001")
    assert version.checkpoint == 6 and version.verdict["verdict"] == "promote with a warning"
    assert promote(run, "CANARY=0.2") == 0
    said = capsys.readouterr().out
    assert "v0002 answers 20% of the conversations." in said
    assert "note: its evaluation compared it with its BASELINE, not with v0001, which is live" in said


def test_what_cannot_be_promoted_is_one_line(run, tmp_path, capsys):
    line = rejected(capsys, run, "CKPT=5")
    assert line == f"error: CKPT=5: {run} has no complete checkpoint of that step. It has 3, 6."
    assert "Give one of them" in rejected(capsys, run, "VERSION=v0001")
    assert "CKPT is a setting of other jobs" not in rejected(capsys, run, "CKPTS=3")
    assert "has no run.json" in rejected(capsys, run / "checkpoint-3", code=1)
    assert main(JOBS["jobs.promote"], ["CKPT=3", f"REGISTRY={tmp_path / 'registry'}"]) == 2
    assert "CKPT is for RUN_DIR" in capsys.readouterr().err
    RunDirectory(run).write_json("summary.json", {"finished": True, "stopped_by_guard": {"step": 6, "reasons": []}})
    rows = [{"step": step, "level": "alarm"} for step in (3, 6)]
    (run / "guard.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "none is good to use" in rejected(capsys, run, code=1)
    assert read_live(tmp_path / "registry") == Live()


def test_a_run_of_all_weights_is_a_version_too(tmp_path, capsys):
    run = make_run(tmp_path / "whole", adapter="none")
    add_checkpoint(run, 3)
    release(run / "eval", 3, c3="promote")
    assert promote(run) == 0
    assert versions.read(tmp_path / "registry", "v0001").kind == "model"
