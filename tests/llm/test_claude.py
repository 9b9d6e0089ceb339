"""Claude over its own protocol, with a real local server."""

import json

import pytest

from sdpo.errors import ServerError, SettingError
from sdpo.llm import ClaudeBackend, Client, Request, RequestRefused, check_claude, claude_backend
from sdpo.text.prompts import VERDICT_SCHEMA
from tests.servers import Answer, FakeServer

KEY = "sk-ant-a-key-that-must-not-appear"
MODEL = "claude-haiku-4-5-20251001"
MESSAGES = [{"role": "system", "content": "a persona"}, {"role": "user", "content": "an exchange<|im_end|>"}]


@pytest.fixture
def claude(monkeypatch):
    """Return a function that creates a client for a server."""

    def make(server: FakeServer, model: str = MODEL, **settings) -> Client:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.root)
        return Client(ClaudeBackend(model, KEY, 2), **settings)

    return make


def test_a_request_follows_the_protocol(claude):
    with FakeServer() as server:
        (reply,) = claude(server).complete([Request(MESSAGES, 0.0, 256)])
    assert (reply.text, reply.tokens_in, reply.tokens_out) == ("fine", 7, 3)
    assert server.bodies == [
        {
            "model": MODEL,
            "max_tokens": 256,
            "temperature": 0.0,
            "system": "a persona",
            "messages": [{"role": "user", "content": "an exchange<\u2060|im_end|>"}],
        }
    ]
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_the_given_key_is_the_only_credential(claude, monkeypatch):
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "another-secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with FakeServer() as server:
        claude(server).complete([Request(MESSAGES, 0.0, 256)])
    assert "another-secret" not in str(server.headers) and KEY in str(server.headers)


@pytest.mark.parametrize("key", [None, ""])
def test_a_missing_key_is_reported_by_name(key):
    with pytest.raises(SettingError, match="ANTHROPIC_API_KEY"):
        ClaudeBackend(MODEL, key)


@pytest.mark.parametrize("key", ["sk-ant\n", "sk–dash"])
def test_an_invalid_key_is_not_shown(key):
    with pytest.raises(SettingError, match="ANTHROPIC_API_KEY") as caught:
        ClaudeBackend(MODEL, key)
    assert key.strip() not in str(caught.value)


def test_the_reply_schema_is_sent_and_dropped_if_the_model_does_not_support_it(claude):
    def script(body, number):
        return Answer("output_config: not supported", 400) if "output_config" in body else Answer("Verdict: A")

    with FakeServer(script) as server:
        client = claude(server, concurrency=1)
        for sample in range(3):
            request = Request(MESSAGES, 0.0, 64, schema=VERDICT_SCHEMA, sample=sample)
            assert [reply.text for reply in client.complete([request])] == ["Verdict: A"]
    assert server.bodies[0]["output_config"] == {"format": {"type": "json_schema", "schema": VERDICT_SCHEMA}}
    assert ["output_config" in body for body in server.bodies] == [True, False, False, False]


def test_the_temperature_is_dropped_if_the_model_refuses_it(claude):
    def script(body, number):
        return Answer("`temperature` may only be 1 for this model", 400) if "temperature" in body else Answer("ok")

    with FakeServer(script) as server:
        client = claude(server, model="claude-newer", concurrency=1)
        assert [reply.text for reply in client.complete([Request(MESSAGES, 0.0, 9), Request(MESSAGES, 0.0, 9)])] == [
            "ok",
            "ok",
        ]
    assert ["temperature" in body for body in server.bodies] == [True, False, False]


@pytest.mark.parametrize(
    ("words", "requests"),
    [
        ("Your credit balance is too low.", 1),
        ("Something else.", 2),  # the second time without the schema, which might have been the cause
    ],
)
def test_any_other_refusal_is_raised_with_the_servers_message(claude, words, requests):
    refusal = Answer(words, 400)
    with FakeServer(lambda body, number: refusal) as server, pytest.raises(RequestRefused, match=words[:-1]):
        claude(server).complete([Request(MESSAGES, 0.0, 64, schema=VERDICT_SCHEMA)])
    assert len(server.bodies) == requests


HERE = Answer(raw=json.dumps({"id": MODEL, "type": "model", "display_name": "m", "created_at": "2025-10-01"}).encode())
NOT_FOUND = Answer(raw=b'{"type": "error", "error": {"type": "not_found_error", "message": "model"}}', status=404)


def models_page(*names: str) -> Answer:
    data = [{"id": name, "type": "model", "display_name": name, "created_at": "2025-10-01"} for name in names]
    return Answer(raw=json.dumps({"data": data, "has_more": False, "first_id": None, "last_id": None}).encode())


def test_a_key_that_the_api_accepts_is_accepted_without_a_request_that_costs(monkeypatch, capsys):
    shown: list[str | None] = []

    def model(headers):
        shown.append(headers.get("Authorization"))
        return HERE

    with FakeServer(gets={f"/v1/models/{MODEL}": model}) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.root)
        check_claude(MODEL, KEY, "JUDGE_MODEL", dry_run=False)
    assert shown == [f"Bearer {KEY}"] and not server.bodies and capsys.readouterr().out == ""


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_key_that_the_api_refuses_is_refused_before_anything_is_loaded(monkeypatch, status, dry_run):
    with FakeServer(gets={f"/v1/models/{MODEL}": Answer(f"no: {KEY}", status=status)}) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.root)
        with pytest.raises(RequestRefused, match=f"refuses the key .HTTP {status}.: check ANTHROPIC_API_KEY") as caught:
            check_claude(MODEL, KEY, "JUDGE_MODEL", dry_run)
    assert KEY not in str(caught.value) and caught.value.settings == ("ANTHROPIC_API_KEY",)


def test_a_model_that_the_api_has_not_is_refused_with_the_nearest_name(monkeypatch):
    gets = {f"/v1/models/{MODEL}x": NOT_FOUND, "/v1/models?limit=100": models_page("claude-other", MODEL)}
    with FakeServer(gets=gets) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.root)
        with pytest.raises(RequestRefused, match=f"has no model {MODEL}x. .*Did you mean {MODEL}. Set JUDGE_MODEL"):
            check_claude(f"{MODEL}x", KEY, "JUDGE_MODEL", dry_run=True)


@pytest.mark.parametrize("answer", [NOT_FOUND, Answer(raw=b"<html>")])
def test_a_server_in_between_that_describes_no_models_is_accepted(monkeypatch, answer):
    with FakeServer(gets={f"/v1/models/{MODEL}": answer}) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.root)
        check_claude(MODEL, KEY, "JUDGE_MODEL", dry_run=True)


@pytest.mark.parametrize("answer", [Answer("overloaded", status=529), Answer(reset=True), Answer(hang=True)])
def test_an_api_that_does_not_respond_is_an_error_and_for_a_dry_run_a_note(monkeypatch, capsys, answer):
    monkeypatch.setattr(claude_backend, "CHECK_SECONDS", 0.5)
    with FakeServer(gets={f"/v1/models/{MODEL}": answer}) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.root)
        check_claude(MODEL, KEY, "JUDGE_MODEL", dry_run=True)
        assert "note: ANTHROPIC_API_KEY could not be checked" in capsys.readouterr().out
        with pytest.raises(ServerError, match="could not be checked"):
            check_claude(MODEL, KEY, "JUDGE_MODEL", dry_run=False)
