"""The user is tried before it teaches: once per run, by one process; a failed trial ends the run before a step."""

import json
import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.train_online_tldr import JOB
from sdpo.errors import SdpoError
from sdpo.llm import Client, OpenAIBackend
from sdpo.models.generate import generate
from sdpo.runtime.run_directory import RunDirectory
from sdpo.text.chat import encode_prompt
from sdpo.text.prompts import user_messages
from sdpo.tiny import MODEL_DIR, STYLES_FILE
from sdpo.tiny.world import TinyOracle
from sdpo.train.online.user_trial import FILE, choose_user_probes, try_user
from sdpo.users.simulator import FollowUp, SimulatedUser
from sdpo.users.styles import persona_of
from sdpo.users.trial import PROBES, Trial
from tests.servers import Answer, FakeServer
from tests.worlds import rows_of, run_job, user_by_rule

STYLE = "no_emojis"


def stub_trainer(user) -> SimpleNamespace:
    """Return a stub for a trainer of one process, which asks its user once."""
    return SimpleNamespace(
        user=user,
        accelerator=SimpleNamespace(is_main_process=True),
        collect_follow_ups=lambda result, again: result(),
    )


def settings(user_trial: str) -> SimpleNamespace:
    return SimpleNamespace(user_trial=user_trial, seed=1, user_model_name_or_path="some/model")


@pytest.mark.parametrize(
    ("script", "user_trial", "ends"),
    [("rule", "stop", False), ("Fine.", "stop", True), ("Fine.", "warn", False), ("Fine.", "off", False)],
)
def test_a_run_tries_its_user_once_and_reads_what_it_found(script, user_trial, ends, tmp_path, capsys):
    rule, oracle, run = user_by_rule(STYLE), TinyOracle(STYLE), RunDirectory(tmp_path)
    with FakeServer(rule if script == "rule" else lambda body, number: Answer(script)) as server:
        for attempt in range(2):
            user = SimulatedUser(Client(OpenAIBackend(server.url, "m")), persona_of(STYLE), 0.7, 128)
            ended = pytest.raises(
                SdpoError, match=r"50% of its reactions were right, 75% have to be\..*USER_TRIAL=warn"
            )
            with ended if ends else nullcontext():
                try_user(stub_trainer(user), oracle, settings(user_trial), run)
            output = capsys.readouterr().out
            assert ("20 probes" in output) is (attempt == 0 and user_trial != "off")
            assert ("reply   Fine." in output) is (attempt == 0 and script == "Fine." and user_trial != "off")
            assert ("warning: the simulated user (some/model)" in output) is (user_trial == "warn")
        assert len(server.bodies) == (0 if user_trial == "off" else PROBES)
    saved = run.read_json(FILE)
    assert (saved is None) is (user_trial == "off")
    if saved:
        assert bool(saved["failures"]) is (script == "Fine.") and len(saved["reactions"]) == PROBES


def test_a_user_that_thinks_aloud_fails_with_its_thoughts_shown_and_what_to_do(tmp_path, capsys):
    with FakeServer(lambda body, number: Answer("<think>Okay, so the user")) as server:
        user = SimulatedUser(Client(OpenAIBackend(server.url, "m")), persona_of(STYLE), 0.7, 128)
        for _ in range(2):  # the second time from what was found
            with pytest.raises(SdpoError, match=r"100% of its replies are thoughts and nothing else .*USER_MAX_TOKENS"):
                try_user(stub_trainer(user), TinyOracle(STYLE), settings("stop"), RunDirectory(tmp_path))
    assert "reply   <think>Okay, so the user" in capsys.readouterr().out


def test_a_replay_has_no_user_to_try(tmp_path):
    try_user(stub_trainer(None), TinyOracle(STYLE), settings("stop"), RunDirectory(tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_probes_are_those_of_the_world_or_english():
    tiny = choose_user_probes(TinyOracle(STYLE), 0)
    english = choose_user_probes(JOB.find_oracle("some/model", STYLE), 0)
    unknown = choose_user_probes(JOB.find_oracle("some/model", "poetic"), 0)
    assert all(probe.answer.startswith("TL;DR:") for probe in tiny) and {probe.fits for probe in unknown} == {None}
    assert sum(probe.fits for probe in english) == PROBES // 2
    assert not any(probe.answer.startswith("TL;DR:") for probe in english + unknown)


@pytest.fixture(scope="module")
def tiny_model():
    """Return the tiny model and its tokenizer."""
    return AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32), AutoTokenizer.from_pretrained(
        MODEL_DIR
    )


@pytest.mark.slow
@pytest.mark.parametrize("style", ["no_emojis", "emojis", "short", "formal", "concise_casual_beginner"])
def test_the_tiny_model_as_the_user_passes_with_ten_of_ten_seeds(style, tiny_model):
    model, tokenizer = tiny_model
    oracle, persona = TinyOracle(style), persona_of(style, STYLES_FILE)
    for seed in range(10):
        probes = choose_user_probes(oracle, seed)
        prompts = [encode_prompt(tokenizer, user_messages(persona, probe.prompt, probe.answer)) for probe in probes]
        replies = generate(model, tokenizer, prompts, 48, PROBES, temperature=0.7, seed=seed)
        trial = Trial(probes, [FollowUp(text.strip()) for text, _ in replies], oracle.is_satisfied)
        assert trial.failures() == [], trial.table()


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [1, 2])
def test_a_job_whose_user_praises_everything_ends_before_a_step_and_can_go_on_with_a_warning(gpus, tmp_path):
    out, flags = tmp_path / "run", {"gpus": gpus, "bs": 16 // gpus, "train_n": 32, "eval_n": 0, "run_id": "r"}
    with FakeServer(lambda body, number: Answer("I like it.")) as server:
        for _ in range(2):
            done = run_job(server.url, out, expect=1, **flags)
            (line,) = done.stderr.strip().splitlines()[-1:]
            assert line.startswith("error: the simulated user") and "50% of its reactions were right" in line
            assert "Traceback" not in done.stderr and not (out / "metrics.jsonl").exists()
            assert len(server.bodies) == PROBES
        assert json.loads((out / "meter.json").read_text())["requests"] == PROBES
        done = run_job(server.url, out, user_trial="warn", **flags)
    assert "warning: the simulated user" in done.stdout and len(rows_of(out / "metrics.jsonl")) == 2
    assert len(server.bodies) == PROBES + 32


@pytest.mark.slow
def test_a_user_who_does_not_respond_in_its_trial_is_waited_for(tmp_path):
    rule, first = user_by_rule(), []

    def script(body, number):
        first.append(time.monotonic())
        return Answer(reset=True) if time.monotonic() < first[0] + 5 else rule(body, number)

    with FakeServer(script) as server:
        done = run_job(server.url, tmp_path / "run", train_n=16, eval_n=0, simulator_timeout=2, simulator_wait=60)
    assert "no step is finished yet" in done.stdout and "requesting the missing replies again" in done.stdout
    assert json.loads((tmp_path / "run" / FILE).read_text())["failures"] == []
