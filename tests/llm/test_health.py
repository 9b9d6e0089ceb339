"""The health check of a server, also behind a password, at a bare address, and while its model is loading."""

import base64
import dataclasses
import json
import time

import pytest

from jobs.train_online_tldr import JOB
from sdpo.errors import ServerError, SettingError
from sdpo.llm import Client, OpenAIBackend, Request, RequestRefused, health
from sdpo.llm.health import check_health
from sdpo.runtime.launch import main
from sdpo.runtime.provenance import provenance
from sdpo.settings import given, redacted
from sdpo.settings.resolve import resolve
from tests.servers import Answer, FakeServer

MODELS = Answer(raw=json.dumps({"data": [{"id": "here"}]}).encode())


def listing(*names: str, **values) -> Answer:
    return Answer(raw=json.dumps({"data": [{"id": name, **values} for name in names]}).encode())


def test_without_a_model_only_the_health_address_is_requested():
    with FakeServer() as server:
        check_health(server.url)
        check_health(server.url + "/")
        assert server.paths == ["/health", "/health"]
        check_health(server.url, "m")  # it has no list of models: the first request decides
    assert server.paths[2:] == ["/health", "/v1/models"]


def test_a_model_that_a_ready_server_does_not_list_is_refused_with_the_nearest_name():
    gets = {"/health": Answer(raw=b"{}"), "/v1/models": listing("Qwen/Qwen3-4B", "another", owned_by="vllm")}
    with FakeServer(gets=gets) as server:
        check_health(server.url, "Qwen/Qwen3-4B", "another")
        with pytest.raises(RequestRefused) as caught:
            check_health(server.url, "another", "Qwen/Qwen3-4", setting="JUDGE_URL", model_setting="JUDGE_MODEL")
    assert str(caught.value) == (
        f"The server at {server.url}/models has no model Qwen/Qwen3-4. It has Qwen/Qwen3-4B, another. Did you mean "
        "Qwen/Qwen3-4B? Set JUDGE_MODEL to a model of the server, or JUDGE_URL to another server."
    )
    assert caught.value.settings == ("JUDGE_MODEL", "JUDGE_URL")


@pytest.mark.parametrize(
    "models",
    [
        listing(),
        listing("org/in-the-cache", owned_by="org"),  # transformers serve
        listing("gpt2", owned_by=""),
        listing("a.gguf", owned_by="llamacpp"),
        listing("m:latest", owned_by="library"),  # Ollama
        listing("models/m", owned_by="google"),
        Answer(raw=b"<html>"),
        Answer("not yours", status=403),
        Answer("broken", status=500),
        Answer(reset=True),
    ],
)
def test_a_ready_server_whose_list_does_not_decide_is_accepted(models):
    with FakeServer(gets={"/health": Answer(raw=b"{}"), "/v1/models": models}) as server:
        check_health(server.url, "m")


@pytest.mark.parametrize("status", [404, 500])
def test_a_server_whose_list_does_not_decide_is_asked_for_a_token(status):
    """`transformers serve` lists the hub's cache, and fails for a model that it cannot find."""

    def script(body, number):
        return Answer("no such model", status=status) if body["model"] == "m" else Answer()

    cached = {"/health": Answer(raw=b"{}"), "/v1/models": listing("org/in-the-cache", owned_by="org")}
    named = {"setting": "JUDGE_URL", "model_setting": "JUDGE_MODEL", "ask": 5, "api_key": "a-key"}
    with FakeServer(script, gets=cached) as server:
        check_health(server.url, "other", **named)
        with pytest.raises(RequestRefused, match=rf"fails for m \(HTTP {status}\).*Set JUDGE_MODEL to") as caught:
            check_health(server.url, "other", "m", **named)
        check_health(server.url, "m", **named | {"ask": 0})
    assert caught.value.settings == ("JUDGE_MODEL", "JUDGE_URL")
    assert [body["model"] for body in server.bodies] == ["other", "other", "m"]
    assert {body["max_tokens"] for body in server.bodies} == {1}


@pytest.mark.parametrize("answer", [Answer("busy", status=503), Answer("limit", status=429), Answer(reset=True)])
def test_a_server_that_may_only_be_busy_is_accepted_when_it_is_asked(answer):
    cached = {"/health": Answer(raw=b"{}"), "/v1/models": listing("org/in-the-cache", owned_by="org")}
    with FakeServer(lambda body, number: answer, gets=cached) as server:
        check_health(server.url, "m", ask=5)


def test_a_key_is_sent_to_the_list_of_models_and_one_that_is_refused_is_not_shown():
    def models(headers):
        return MODELS if headers.get("Authorization") == "Bearer right-key" else Answer("no", status=401)

    with FakeServer(gets={"/health": Answer(raw=b"{}"), "/v1/models": models}) as server:
        check_health(server.url, "here", api_key="right-key")
        with pytest.raises(RequestRefused, match=r"refuses the key .HTTP 401.: check JUDGE_API_KEY") as caught:
            check_health(server.url, "here", setting="JUDGE_URL", api_key="wrong-key")
        assert "wrong-key" not in str(caught.value)
        with pytest.raises(RequestRefused, match="needs a key: set SIMULATOR_API_KEY"):
            check_health(server.url, "here")
        with pytest.raises(SettingError, match="SIMULATOR_API_KEY contains characters"):
            check_health(server.url, "here", api_key="dash–key")


def test_a_dry_run_and_a_run_refuse_a_model_that_the_server_has_not(tmp_path, capsys):
    gets = {"/health": Answer(raw=b"{}"), "/v1/models": listing("here", owned_by="vllm")}
    with FakeServer(gets=gets) as server:
        flags = ["--tiny", "--output-dir", str(tmp_path / "run"), "--simulator-url", server.url]
        for more in ([], ["--dry-run"]):
            assert main(JOB, [*flags, "--user-model-name-or-path", "hero", *more]) == 3
            error = capsys.readouterr().err
            assert "has no model hero. It has here. Did you mean here? Set USER_MODEL_NAME_OR_PATH" in error
            assert len(error.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_a_dry_run_only_notes_that_the_server_is_not_there_yet(tmp_path, capsys):
    flags = ["--tiny", "--output-dir", str(tmp_path / "run"), "--simulator-url", "http://127.0.0.1:9/v1"]
    assert main(JOB, [*flags, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("note: No server responds at http://127.0.0.1:9/health") and not said.err
    assert "Start one with `make simulator PORT=9`" in said.out
    assert main(JOB, flags) == 3 and not (tmp_path / "run").exists()


def test_a_server_without_health_is_checked_by_its_models():
    with FakeServer(gets={"/v1/models": MODELS}) as server:
        check_health(server.url)
        check_health(server.url, "here")
        with pytest.raises(ServerError, match="here"):
            check_health(server.url, "gone")
    assert server.paths == ["/health", "/v1/models"] * 3


@pytest.mark.parametrize(
    "gets",
    [{}, {"/health": Answer(status=503)}, {"/health": Answer(reset=True)}, {"/v1/models": Answer(raw=b"<html>")}],
)
def test_an_unhealthy_server_is_reported_in_one_line(gets):
    with FakeServer(gets=gets) as server:
        with pytest.raises(ServerError) as caught:
            check_health(server.url, "m", timeout=5)
        assert server.root in str(caught.value)
    assert "make simulator" in str(caught.value) and "\n" not in str(caught.value)


def test_a_hanging_or_dead_server_is_reported():
    with FakeServer(gets={"/health": Answer(hang=True)}) as server:
        url = server.url
        with pytest.raises(ServerError):
            check_health(url, timeout=0.3)
    with pytest.raises(ServerError, match="make simulator"):
        check_health(url)


def test_a_server_that_answers_byte_by_byte_is_not_waited_for_longer_than_one_that_hangs():
    started = time.monotonic()
    with FakeServer(gets={"/health": Answer(raw=b"." * 1000, drip=0.1)}) as server:
        with pytest.raises(ServerError, match="timed out"):
            check_health(server.url, timeout=0.5)
        assert time.monotonic() - started < 20


@pytest.mark.parametrize("same", [True, False])
def test_a_redirect_to_another_server_does_not_take_the_key_along(same):
    keys = []

    def listed(headers: dict[str, str]) -> Answer:
        keys.append(headers.get("Authorization"))
        return listing("here")

    with FakeServer(gets={"/v1/models": listed, "/models": listed}) as other, FakeServer() as server:
        place = "/models" if same else f"{other.url}/models"
        moved = Answer(raw=b"", status=302, headers={"Location": place})
        server.gets |= {"/v1/models": moved, "/models": listed}
        check_health(server.url, "here", api_key="secret")
    assert keys == ["Bearer secret" if same else None]


@pytest.mark.parametrize("url", ["", "host:8000", "http://", "file:///etc/passwd", "http://h:99999/v1"])
def test_an_invalid_url_is_a_setting_error(url):
    with pytest.raises(SettingError):
        check_health(url)


USER, PASSWORD = "some one", "p@ss:word/1"
AUTHORIZATION = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
IN_ADDRESS = "some%20one:p%40ss:word%2F1"


def guarded(answer: Answer):
    return lambda headers: answer if headers.get("Authorization") == AUTHORIZATION else Answer("who?", status=401)


@pytest.mark.parametrize("path", ["/health", "/v1/models"])
def test_a_user_and_a_password_in_the_address_reach_the_server_and_no_message(path):
    with FakeServer(gets={path: guarded(MODELS if "models" in path else Answer(raw=b"{}"))}) as server:
        url = server.url.replace("://", f"://{IN_ADDRESS}@")
        check_health(url, "here")
        reply = Client(OpenAIBackend(url, "here")).complete([Request([{"role": "user", "content": "hi"}], 0.0, 4)])
        assert reply[0].text == "fine" and server.headers[0]["Authorization"] == AUTHORIZATION
        with pytest.raises(ServerError) as caught:
            check_health(url.replace("/v1", "/other/v1"), "here", timeout=5)
        assert "p%40ss" not in str(caught.value) and "some" not in str(caught.value)
    for gone in (url, url.replace("127.0.0.1", "no.such.host.invalid")):
        with pytest.raises(ServerError) as caught:
            check_health(gone, timeout=2)
        assert "p%40ss" not in str(caught.value) and "p@ss" not in str(caught.value)


def test_a_dry_run_with_a_password_in_the_address_reaches_the_server_and_does_not_print_it(capsys, monkeypatch):
    with FakeServer(gets={"/health": guarded(Answer(raw=b"{}"))}) as server:
        url = server.url.replace("://", f"://{IN_ADDRESS}@")
        assert main(JOB, ["--tiny", "--dry-run", "--simulator-url", url, "--gpus", "2"]) == 0
        monkeypatch.setenv("SIMULATOR_URL", url)
        assert main(JOB, ["--tiny", "--dry-run"]) == 0
    shown = capsys.readouterr()
    assert server.url in shown.out and "p%40ss" not in shown.out + shown.err and "some%20one" not in shown.out
    settings = resolve(JOB.settings, ["--tiny", "--simulator-url", url], job=JOB.name, tiny=JOB.tiny)
    for wrong in (f"htp://{IN_ADDRESS}@host/v1", "http:// u:p@ss@host"):
        assert main(JOB, ["--tiny", "--simulator-url", wrong]) == 2
    assert "p%40ss" not in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["job", "--simulator-url", url])
    assert provenance()["command"] == ["job", "--simulator-url", server.url]
    assert redacted(settings)["simulator_url"] == given(settings)["simulator_url"] == server.url


def test_a_job_waits_for_a_server_that_loads_its_model(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(health, "LOADING_PAUSE_SECONDS", 0.1)
    job = dataclasses.replace(JOB, run="tests.llm.test_health:no_work")
    gets = {"/health": loading_at_first(Answer(raw=b"{}"), 3)}
    flags = ["--tiny", "--output-dir", str(tmp_path / "run"), "--simulator-wait", "30"]
    with FakeServer(gets=gets) as server:
        flags += ["--simulator-url", server.url]
        assert main(job, [*flags, "--dry-run"]) == 0  # which only says it
        assert main(job, flags) == 0
    shown = capsys.readouterr()
    assert "waiting up to 30 s (SIMULATOR_WAIT)" in shown.out and "is not healthy (HTTP 503)" in shown.out


def no_work(settings, job) -> int:
    return 0


def test_a_bare_address_is_checked_under_v1_too():
    with FakeServer(gets={"/v1/models": MODELS}) as server:
        check_health(server.root, "here")
        with pytest.raises(ServerError, match="gone"):
            check_health(server.root, "gone")
    with FakeServer() as server:
        check_health(f"{server.url}/chat/completions")


def loading_at_first(answer: Answer, times: int):
    """Return an answer that is HTTP 503 for the first few requests."""
    answers = iter([Answer("Loading model", status=503)] * times)
    return lambda headers: next(answers, answer)


@pytest.mark.parametrize("path", ["/health", "/v1/models"])
def test_a_server_that_loads_its_model_is_waited_for(path, monkeypatch, capsys):
    monkeypatch.setattr(health, "LOADING_PAUSE_SECONDS", 0.1)
    with FakeServer(gets={path: loading_at_first(MODELS, 3)}) as server:
        check_health(server.url, "here", wait=20)
        assert capsys.readouterr().out.count("waiting up to 20 s (SIMULATOR_WAIT)") == 1
    with FakeServer(gets={path: Answer("Loading model", status=503)}) as server:
        for wait in (0, 0.3):
            with pytest.raises(ServerError, match="HTTP 503"):
                check_health(server.url, "here", wait=wait)
        with pytest.raises(ServerError, match="JUDGE_URL"):
            check_health(server.url, "here", setting="JUDGE_URL")
    with FakeServer(gets={path: loading_at_first(MODELS, 1)}) as server:
        check_health(server.url, "here", setting="JUDGE_URL", wait=20, wait_setting="JUDGE_TIMEOUT")
        assert "20 s (JUDGE_TIMEOUT)" in capsys.readouterr().out


def test_another_fault_is_not_waited_for():
    with FakeServer(gets={"/health": Answer("broken", status=500)}) as server, pytest.raises(ServerError, match="500"):
        check_health(server.url, wait=600)
