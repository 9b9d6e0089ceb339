"""The online job on the tiny world: as a subprocess against a real HTTP user, and learning itself."""

import json
import random
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from sdpo.scoring import score
from sdpo.tiny import MODEL_DIR, oracle, study
from sdpo.tiny.users import OracleUser
from sdpo.train.session import load_model
from tests.servers import Answer, FakeServer, until
from tests.worlds import PROJECT, environment, job_command, rows_of, run_job, user_by_rule

ONE_LINE_ERROR = 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run from beginning to end that nothing disturbed."""
    out = tmp_path_factory.mktemp("online") / "whole"
    with FakeServer(user_by_rule()) as server:
        done = run_job(server.url, out)
    return out, server, done


def test_a_run_leaves_everything_it_did(finished):
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
    assert (out / "checkpoint-6" / "complete.json").exists()
    assert not list(out.rglob(".*.png")) and "Traceback" not in done.stderr


def test_samples_hold_the_interaction_and_its_signal_per_token(finished):
    out, server, _ = finished
    said = {body["messages"][-1]["content"] for body in server.bodies}
    for sample in rows_of(out / "samples.jsonl"):
        assert len(sample["tokens"]) == len(sample["signal"])
        assert "".join(sample["tokens"]).removesuffix("<|im_end|>") == sample["completion"]
        assert any(sample["completion"] in text and sample["prompt"] in text for text in said)
        complaint = oracle.read_follow_up(sample["follow_up"])
        assert complaint == oracle.react(sample["completion"], {"emoji": False})


def test_the_signal_of_a_complaint_is_on_the_emoji(finished):
    complaints = [s for s in rows_of(finished[0] / "samples.jsonl") if oracle.read_follow_up(s["follow_up"]).wanted]
    worst = [s["tokens"][min(range(len(s["signal"])), key=s["signal"].__getitem__)] for s in complaints]
    assert complaints and sum(oracle.read_answer(token).style.emoji for token in worst) >= 0.8 * len(worst)


def test_every_interaction_is_asked_once_by_name_and_settings(finished):
    _, server, _ = finished
    assert len(server.bodies) == 96
    assert {body["temperature"] for body in server.bodies} == {0.7}
    assert not any("TL;DR:\n" in body["messages"][-1]["content"].split("The answer:")[0] for body in server.bodies)


def test_two_forwards_a_step_beside_generation(finished):
    assert {row["forwards"] for row in rows_of(finished[0] / "metrics.jsonl")} == {2}


def trained(folder, steps: int = 2, teacher: str = "live", **config) -> study.OnlineTrainer:
    """A short run in this process with a user by rule."""
    trainer = study.build_trainer(str(folder), teacher, 0, steps, OracleUser({"emoji": False}), **config)
    trainer.train()
    return trainer


def test_two_forwards_a_micro_batch_are_all_there_are(tmp_path):
    trainer = study.build_trainer(
        str(tmp_path), "live", 0, 2, OracleUser({"emoji": False}), gradient_accumulation_steps=2,
        per_device_train_batch_size=8,
    )  # fmt: skip
    counted, generated = [], []
    trainer.model.model.register_forward_pre_hook(lambda *_: counted.append(torch.is_grad_enabled()))
    generate = trainer._generate

    def uncounted(prompts):
        before = len(counted)
        result = generate(prompts)
        del counted[before:]
        generated.append(len(prompts))
        return result

    trainer._generate = uncounted
    trainer.train()
    # Two steps of two micro-batches: the teacher's forward without gradient, the policy's with it.
    assert generated == [16, 16] and sorted(counted) == [False] * 4 + [True] * 4


def test_accumulation_equals_one_batch(tmp_path):
    # Plain gradient descent without clipping: a step of Adam would hide a gradient of another size.
    plain = {"optim": "sgd", "learning_rate": 0.05, "max_grad_norm": 0.0}
    whole = trained(tmp_path / "a", per_device_train_batch_size=16, **plain)
    parts = trained(tmp_path / "b", per_device_train_batch_size=4, gradient_accumulation_steps=4, **plain)
    start = load_model(str(MODEL_DIR))[1]
    weights = zip(start.parameters(), whole.model.parameters(), parts.model.parameters(), strict=True)
    for begin, one, other in weights:
        moved = (one - begin).abs().max()
        assert moved > 0 and (one - other).abs().max() < 1e-3 * moved


def test_a_second_pass_reuses_the_answers_and_is_clipped(tmp_path):
    asked = []

    class Counting(OracleUser):
        def react(self, prompts, completions):
            asked.append(len(completions))
            return super().react(prompts, completions)

    trainer = study.build_trainer(str(tmp_path), "live", 0, 4, Counting({"emoji": False}), num_iterations=2)
    trainer.train()
    assert asked == [16, 16]


def test_a_frozen_teacher_is_the_start_and_a_live_one_the_policy(tmp_path):
    contexts, completions = [[5, 6, 7]], [[8, 9, 10]]
    scores = {}
    for kind in ("frozen", "live"):
        trainer = study.build_trainer(str(tmp_path), kind, 0, 2, OracleUser({"emoji": False}), learning_rate=1e-3)
        before = trainer.teacher.logps(contexts, completions, 1)
        trainer.train()
        policy = score(trainer.model, contexts, completions).logps_BT
        scores[kind] = before, trainer.teacher.logps(contexts, completions, 1), policy
    assert torch.equal(scores["frozen"][0], scores["frozen"][1])
    assert not torch.allclose(scores["frozen"][1], scores["frozen"][2], atol=1e-4)
    torch.testing.assert_close(scores["live"][1], scores["live"][2])


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_a_random_step_and_started_again_it_ends_the_same(finished, tmp_path, seed):
    whole, out = finished[0], tmp_path / "killed"
    step = random.Random(seed).randrange(1, 6)
    with FakeServer(user_by_rule()) as server:
        process = subprocess.Popen(
            job_command(server.url, out, run_id="whole"), env=environment(), cwd=tmp_path,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        metrics = out / "metrics.jsonl"
        assert until(lambda: metrics.exists() and metrics.read_text().count("\n") >= step, 120)
        process.kill()
        process.wait()
        assert not (out / "checkpoint-6" / "complete.json").exists()
        run_job(server.url, out, run_id="whole")
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert [lasting(row) for row in rows_of(out / name)] == [lasting(row) for row in rows_of(whole / name)]
    weights = [load_file(folder / "checkpoint-6" / "model.safetensors") for folder in (whole, out)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (whole, out)]
    assert summaries[0]["after"] == summaries[1]["after"]


def lasting(row: dict) -> dict:
    return {name: value for name, value in row.items() if name not in ("seconds", "peak_memory_gb")}


def test_asked_to_stop_it_saves_and_can_be_continued(tmp_path):
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


# What can go wrong with the user: the README's table, row by row.


def test_server_absent_is_said_before_a_model_is_loaded(tmp_path):
    done = run_job(
        "http://127.0.0.1:9/v1", tmp_path / "run", expect=3, model_name_or_path=str(PROJECT / "sdpo/tiny/model")
    )
    assert "make simulator" in done.stderr and len(done.stderr.strip().splitlines()) == ONE_LINE_ERROR
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_server_dying_mid_step_saves_the_run_which_then_continues(tmp_path):
    out, rule = tmp_path / "run", user_by_rule()
    with FakeServer(lambda body, number: rule(body, number) if number < 40 else Answer(reset=True)) as server:
        done = run_job(server.url, out, expect=4, simulator_timeout=3, save_steps=50)
    assert "Traceback" not in done.stderr and "RUN_ID=" in done.stderr
    assert (out / "checkpoint-2" / "complete.json").exists()
    with FakeServer(rule) as server:
        run_job(server.url, out, simulator_timeout=3, save_steps=50)
    assert [row["step"] for row in rows_of(out / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_server_answering_slowly_costs_its_own_time_once_a_step(tmp_path):
    rule = user_by_rule()

    def slowly(body, number):
        return Answer(rule(body, number).text, delay=0.5)

    with FakeServer(slowly) as server:
        run_job(server.url, tmp_path / "run", train_n=32, eval_n=0)
    assert server.most == 16
    assert all(row["seconds"]["user"] < 16 * 0.5 / 2 for row in rows_of(tmp_path / "run" / "metrics.jsonl"))


@pytest.mark.parametrize(("reply", "counted"), [("  \n", "empty"), ("word " * 2000, "too_long")])
def test_replies_that_cannot_be_used_are_left_out_and_counted(tmp_path, reply, counted):
    rule = user_by_rule()
    with FakeServer(lambda body, number: Answer(reply) if number % 4 == 0 else rule(body, number)) as server:
        run_job(server.url, tmp_path / "run", train_n=32, eval_n=0)
    for row in rows_of(tmp_path / "run" / "metrics.jsonl"):
        assert row[counted] == 4 and row["usable"] == 12


def test_nothing_usable_moves_nothing(tmp_path):
    with FakeServer(lambda body, number: Answer("")) as server:
        run_job(server.url, tmp_path / "run", train_n=32)
    before, after = (
        load_file(path)
        for path in (PROJECT / "sdpo/tiny/model/model.safetensors", tmp_path / "run/checkpoint-2/model.safetensors")
    )
    assert all(torch.equal(before[name], after[name]) for name in after if name in before)


def test_two_processes_train_on_their_own_samples(tmp_path):
    with FakeServer(user_by_rule()) as server:
        run_job(server.url, tmp_path / "run", gpus=2, bs=8, train_n=64, save_steps=10)
    assert len(server.bodies) == 64
    rows = rows_of(tmp_path / "run" / "metrics.jsonl")
    assert [row["interactions"] for row in rows] == [16, 32, 48, 64]
    assert (tmp_path / "run" / "checkpoint-4" / "complete.json").exists()


# Learning itself, by the oracle.


@pytest.mark.parametrize("teacher", ["frozen", "live"])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_learns_the_preference_and_leaves_the_rest(teacher, seed):
    start, end = study.train(teacher, seed, points=(480,))
    assert 0.35 < start["adherence"] < 0.65
    assert end["adherence"] >= 0.95 and end["validity"] >= 0.9
    if teacher == "frozen":
        assert end["validity"] >= 0.95
        assert all(abs(end["axes"][axis] - start["axes"][axis]) <= 0.10 for axis in ("casual", "long"))


def test_unrelated_follow_ups_teach_a_frozen_teachers_student_nothing():
    start, end = study.train("frozen", 0, related=False, points=(480,))
    assert all(abs(end["axes"][axis] - start["axes"][axis]) <= 0.10 for axis in end["axes"])
