"""No key, no Authorization header and no prompt text in any log line, exception, or dry run."""

import logging
import subprocess
import sys
import traceback

import pytest

from sdpo.llm import ClaudeBackend, Client, OpenAIBackend, Request
from sdpo.tiny.data import posts
from tests.servers import Answer, FakeServer
from tests.worlds import PROJECT, environment

pytestmark = pytest.mark.slow

KEY = "sk-a-key-that-must-not-appear"
PROMPT = "a long and private prompt that must not appear"
PERSONA = "a persona of somebody in particular"

REFUSALS = [
    Answer(f"no: Bearer {KEY} {PROMPT}", 400),
    Answer(f"{PERSONA}", 401),
    Answer(PROMPT, 404),
    Answer(f"{KEY}", 500),
    Answer(PROMPT, 429),
    Answer(raw=f'{{"error": "{PROMPT}"}}'.encode(), status=422),
    Answer(raw=f"{PROMPT} {KEY}".encode(), headers={"Content-Type": "text/html"}),
    Answer(raw=f'{{"choices": "{PROMPT}", "content": "{PROMPT}"'.encode()),
    Answer(reset=True),
    Answer(cut=True),
    Answer(hang=True),
    Answer("fine"),
]


@pytest.mark.parametrize("protocol", ["openai", "claude"])
@pytest.mark.parametrize("answer", REFUSALS, ids=range(len(REFUSALS)))
def test_nothing_private_is_logged_or_raised(answer, protocol, monkeypatch, caplog, capsys):
    for name in ("OPENAI_LOG", "ANTHROPIC_LOG"):
        monkeypatch.setenv(name, "debug")
    caplog.set_level(logging.DEBUG)
    request = Request([{"role": "system", "content": PERSONA}, {"role": "user", "content": PROMPT}], 0.0, 16)
    with FakeServer(lambda body, number: answer) as server:
        root = server.root.replace("http://", f"http://someone:{KEY}@")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", root)
        backend = (
            OpenAIBackend(f"{root}/v1", "m", KEY, 1) if protocol == "openai" else ClaudeBackend("claude-m", KEY, 1)
        )
        try:
            outcomes = Client(backend, timeout=2).complete([request])
        except Exception as error:
            outcomes = [error]
            traceback.print_exception(error)
    shown = [caplog.text, *capsys.readouterr()]
    shown += [f"{outcome!r} {outcome}" for outcome in outcomes if isinstance(outcome, Exception)]
    for secret in (KEY, PROMPT, PERSONA, "Authorization", "Bearer"):
        assert not any(secret in text for text in shown)


DEBUG = """
import logging, sys
logging.basicConfig(level=logging.DEBUG)
from sdpo.llm import *
request = Request([{"role": "user", "content": sys.argv[2]}], 0.0, 16)
for backend in (OpenAIBackend(sys.argv[1] + "/v1", "m", sys.argv[3], 1), ClaudeBackend("claude-m", sys.argv[3], 1)):
    print(len(Client(backend).complete([request])))
"""


def test_nothing_private_is_logged_with_all_debug_logs_enabled():
    with FakeServer(lambda body, number: Answer("oops", 500) if number % 2 else Answer("fine")) as server:
        variables = {"OPENAI_LOG": "debug", "ANTHROPIC_LOG": "debug", "ANTHROPIC_BASE_URL": server.root}
        done = subprocess.run(
            [sys.executable, "-c", DEBUG, server.root, PROMPT, KEY],
            env=environment(**variables), capture_output=True, text=True, timeout=120, cwd=PROJECT,
        )  # fmt: skip
    assert done.stdout.split() == ["1", "1"]
    for secret in (KEY, PROMPT, "Authorization", "Bearer"):
        assert secret not in done.stdout + done.stderr


def test_a_dry_run_shows_no_key_and_no_prompt(tmp_path):
    variables = {
        "ANTHROPIC_API_KEY": KEY,
        "SIMULATOR_API_KEY": KEY,
        "TINY": "1",
        "DRY_RUN": "1",
        "PYTHONPATH": str(PROJECT),
    }
    for model in ("claude-haiku-4-5-20251001", None):
        arguments = ["--user-model-name-or-path", model] if model else []
        done = subprocess.run(
            [sys.executable, "-m", "jobs.train_online_helpsteer", *arguments],
            env=environment(**variables), capture_output=True, text=True, timeout=120, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert KEY not in done.stdout + done.stderr
        (first,) = posts(1, 1, False, "train")
        assert first.prompt[:40] not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
