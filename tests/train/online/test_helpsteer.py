"""The helpsteer job end to end, with a local server that speaks Anthropic's protocol instead of Claude."""

import json

import pytest

from sdpo.llm import Price
from sdpo.settings.resolve import resolve
from sdpo.text.prompts import PERSONAS
from sdpo.users.trial import PROBES
from tests.commands import JOBS
from tests.servers import Answer, FakeServer
from tests.worlds import rows_of, run_job, user_by_rule

pytestmark = pytest.mark.slow

KEY = "sk-ant-a-key-nobody-may-see"
CLAUDE = "claude-haiku-4-5-20251001"


def test_the_job_has_the_published_settings(tmp_path):
    job = JOBS["jobs.train_online_helpsteer"]
    settings = resolve(job.settings, [], job=job.name, defaults=job.defaults, environment={}, dotenv=tmp_path / "none")
    expected = {
        "model": "Qwen/Qwen3-8B",
        "user_model_name_or_path": CLAUDE,
        "user_temperature": 0.0,
        "user_max_tokens": 256,
        "style": "no_emojis",
        "lr": 5e-6,
        "bs": 2,
        "ga": 4,
        "world_size": 4,
        "train_n": 512,
        "max_prompt_tokens": 512,
        "max_completion_tokens": 2048,
        "concurrency": 32,
        "simulator_wait": 900.0,
        "max_cost": None,
    }
    assert {name: getattr(settings, name) for name in expected} == expected
    with_url = resolve(
        job.settings, ["--simulator-url", "http://gateway/v1"], job=job.name, defaults=job.defaults, environment={},
        dotenv=tmp_path / "none",
    )  # fmt: skip
    assert not with_url.user_is_claude  # another server that serves the model
    assert settings.user_is_claude and job.system_prompt == job.prompt_suffix == ""


def test_a_run_stops_before_max_cost_and_resumes_without_paying_twice(tmp_path, monkeypatch):
    rule, out = user_by_rule(), tmp_path / "run"
    settings = {"user_model_name_or_path": CLAUDE, "user_temperature": 0, "user_max_tokens": 256}
    settings |= {"train_n": 48, "eval_n": 8, "save_steps": 50, "job": "train_online_helpsteer", "run_id": "r"}
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    reply_cost = Price(1.0, 5.0).of(700, 200)
    with FakeServer(lambda body, number: Answer(rule(body, number).text, tokens=(700, 200))) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.root)
        stopped = run_job(None, out, expect=5, max_cost=(PROBES + 24) * reply_cost, concurrency=4, **settings)
        assert "MAX_COST" in stopped.stderr and "RUN_ID=r MAX_COST=..." in stopped.stderr
        assert "Traceback" not in stopped.stderr
        meter = json.loads((out / "meter.json").read_text())
        requests = len(server.bodies)
        assert PROBES + 16 < requests < PROBES + 24 and meter["cost"] == round(requests * reply_cost, 6)
        assert (out / "checkpoint-1" / "complete.json").exists()
        done = run_job(None, out, **settings)
    count = PROBES + 48  # the user is tried once
    assert len(server.bodies) == count
    meter = json.loads((out / "meter.json").read_text())
    assert (meter["requests"], meter["tokens_in"], meter["tokens_out"]) == (count, count * 700, count * 200)
    assert meter["cost"] == round(count * reply_cost, 6) and f"${count * reply_cost:.4f}" in done.stdout
    assert [row["step"] for row in rows_of(out / "metrics.jsonl")] == [1, 2, 3]
    assert {(body["model"], body["temperature"], body["max_tokens"]) for body in server.bodies} == {(CLAUDE, 0.0, 256)}
    assert all(PERSONAS["no_emojis"] in body["system"] for body in server.bodies)
    written = [path.read_text("utf-8", errors="ignore") for path in out.rglob("*") if path.is_file()]
    assert not any(KEY in text for text in [*written, done.stdout, done.stderr, stopped.stdout, stopped.stderr])


def test_without_an_api_key_the_job_ends_before_a_model_is_loaded(tmp_path):
    done = run_job(None, tmp_path / "run", expect=2, job="train_online_helpsteer", user_model_name_or_path=CLAUDE)
    assert done.stderr.strip().splitlines()[-1].startswith("error:") and "ANTHROPIC_API_KEY" in done.stderr
    assert not (tmp_path / "run").exists()
