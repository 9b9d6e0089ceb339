"""The online job on the tiny world, as a subprocess with a simulated user behind real HTTP."""

import json
import random
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from sdpo.tiny import oracle
from sdpo.train.online.job import LIVE_STABLE, LIVE_STABLE_CONTRASTED
from sdpo.users.trial import PROBES
from tests import forks
from tests.servers import FakeServer, until
from tests.worlds import environment, job_command, rows_of, run_job, user_by_rule

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return run directory, server and process of an uninterrupted run."""
    out = tmp_path_factory.mktemp("online") / "finished"
    with FakeServer(user_by_rule()) as server:
        done = run_job(server.url, out)
    return out, server, done


def test_the_run_directory_is_complete(finished):
    out, _, done = finished
    summary = json.loads((out / "summary.json").read_text())
    for when in ("before", "after"):
        assert set(summary[when]) >= {"adherence", "validity", "mean_length", "axes"}
        assert set(summary[when]["axes"]) == {"emoji", "casual", "long"}
        assert f"{summary[when]['adherence']:.3f}" in done.stdout
    metrics = rows_of(out / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2, 3, 4, 5, 6]
    assert [row["interactions"] for row in metrics] == [16, 32, 48, 64, 80, 96]
    started = json.loads((out / "run.json").read_text())
    assert started["settings"]["seed"] == 7 and started["versions"]["trl"]
    assert (out / "training.png").read_bytes().startswith(b"\x89PNG") and str(out / "training.png") in done.stdout
    assert str(out / "report.html") in done.stdout and "step 6:" in (out / "report.html").read_text("utf-8")
    assert (out / "checkpoint-6" / "complete.json").exists()
    assert not list(out.rglob(".*.png")) and "Traceback" not in done.stderr


def test_samples_hold_interactions_and_their_signal_per_token(finished):
    out, server, _ = finished
    requests = {body["messages"][-1]["content"] for body in server.bodies}
    for sample in rows_of(out / "samples.jsonl"):
        assert len(sample["tokens"]) == len(sample["signal"])
        assert "".join(sample["tokens"]).removesuffix("<|im_end|>") == sample["completion"]
        assert any(sample["completion"] in text and sample["prompt"] in text for text in requests)
        complaint = oracle.read_follow_up(sample["follow_up"])
        assert complaint == oracle.react(sample["completion"], {"emoji": False})


def test_the_signal_of_a_complaint_is_largest_on_the_emoji(finished):
    complaints = [s for s in rows_of(finished[0] / "samples.jsonl") if oracle.read_follow_up(s["follow_up"]).wanted]
    worst = [s["tokens"][min(range(len(s["signal"])), key=s["signal"].__getitem__)] for s in complaints]
    assert complaints and sum(oracle.read_answer(token).style.emoji for token in worst) >= 0.8 * len(worst)


def test_the_user_gets_one_request_per_probe_and_interaction_with_the_given_settings(finished):
    _, server, _ = finished
    assert len(server.bodies) == PROBES + 96
    assert {body["temperature"] for body in server.bodies} == {0.7}
    assert not any("TL;DR:\n" in body["messages"][-1]["content"].split("The answer:")[0] for body in server.bodies)


def test_a_step_takes_two_forwards_besides_generation_with_focus_too(finished):
    rows = rows_of(finished[0] / "metrics.jsonl")
    assert {row["forwards"] for row in rows} == {2}
    # The unmoved answers are those with thanks, half of the follow-ups at first.
    assert all(0 < row["unmoved"] < row["usable"] == 16 for row in rows)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_killed_at_a_random_step_resumes_to_the_same_result(finished, tmp_path, seed):
    uninterrupted, out = finished[0], tmp_path / "killed"
    step = random.Random(seed).randrange(1, 6)
    with FakeServer(user_by_rule()) as server:
        process = subprocess.Popen(
            job_command(server.url, out, run_id="finished"), env=environment(), cwd=tmp_path,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        metrics = out / "metrics.jsonl"
        assert until(lambda: metrics.exists() and metrics.read_text().count("\n") >= step, 120)
        process.kill()
        process.wait()
        assert not (out / "checkpoint-6" / "complete.json").exists()
        run_job(server.url, out, run_id="finished")
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert [reproducible(row) for row in rows_of(out / name)] == [
            reproducible(row) for row in rows_of(uninterrupted / name)
        ]
    weights = [load_file(folder / "checkpoint-6" / "model.safetensors") for folder in (uninterrupted, out)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (uninterrupted, out)]
    assert summaries[0]["after"] == summaries[1]["after"]


def test_eval_steps_measure_validation_follow_ups_without_changing_the_run(finished, tmp_path):
    uninterrupted, out = finished[0], tmp_path / "validated"
    with FakeServer(user_by_rule()) as server:
        run_job(server.url, out, run_id="finished", eval_steps=3)
    rows = rows_of(out / "validation.jsonl")
    assert [(row["step"], row["interactions"], row["answers"]) for row in rows] == [(3, 48, 32), (6, 96, 32)]
    trained = len(server.bodies) - PROBES
    assert 96 < trained <= 96 + 2 * 32  # replies to an answer that occurs again come from the cache
    for row in rows:
        assert row["satisfied"] == pytest.approx(row["adherence"], abs=1e-4) and row["signal_size"] > 0
        assert all(oracle.read_follow_up(sample["follow_up"]) for sample in row["samples"])
    assert [reproducible(row) for row in rows_of(out / "metrics.jsonl")] == [
        reproducible(row) for row in rows_of(uninterrupted / "metrics.jsonl")
    ]
    weights = [load_file(folder / "checkpoint-6" / "model.safetensors") for folder in (uninterrupted, out)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def reproducible(row: dict) -> dict:
    """Return the row without time and memory, which differ from run to run."""
    return {name: value for name, value in row.items() if name not in ("seconds", "peak_memory_gb")}


def test_a_run_that_gets_sigterm_saves_and_can_be_resumed(tmp_path):
    out = tmp_path / "stopped"
    with FakeServer(user_by_rule()) as server:
        process = subprocess.Popen(
            job_command(server.url, out, save_steps=50), env=environment(), cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert until(lambda: (out / "metrics.jsonl").exists(), 120)
        process.terminate()
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 143, output
        steps = len(rows_of(out / "metrics.jsonl"))
        assert (out / f"checkpoint-{steps}" / "complete.json").exists()
        run_job(server.url, out, save_steps=50)
    assert [row["step"] for row in rows_of(out / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_each_of_two_processes_samples_its_own_answers(tmp_path):
    with FakeServer(user_by_rule()) as server:
        run_job(server.url, tmp_path / "run", gpus=2, bs=8, train_n=64, save_steps=10)
    assert len(server.bodies) == PROBES + 64  # only one process tries the user
    rows = rows_of(tmp_path / "run" / "metrics.jsonl")
    assert [row["interactions"] for row in rows] == [16, 32, 48, 64]
    assert (tmp_path / "run" / "checkpoint-4" / "complete.json").exists()


@pytest.mark.parametrize(
    ("teacher", "contrast", "count", "warns"),
    [
        ("live", 0, LIVE_STABLE + 1, True),
        ("live", 0, LIVE_STABLE, False),
        ("live", 1, LIVE_STABLE_CONTRASTED + 1, True),
        ("live", 1, LIVE_STABLE_CONTRASTED, False),
        ("frozen", 1, LIVE_STABLE + 1, False),
    ],
)
def test_a_run_longer_than_live_teachers_are_stable_warns_before_it_starts(teacher, contrast, count, warns, tmp_path):
    settings = {"teacher": teacher, "null_contrast": contrast, "train_n": count}
    command = [*job_command(None, tmp_path / "run", **settings), "--dry-run"]
    done = forks.run(command, env=environment(), timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("TEACHER=live") is warns
