"""The health check of a server, also behind a password, at a bare address, and while its model is loading."""

import base64
import dataclasses
import json

import pytest

from jobs.train_online_tldr import JOB
from sdpo.errors import ServerError, SettingError
from sdpo.llm import Client, OpenAIBackend, Request, health
from sdpo.llm.health import check_health
from sdpo.runtime.launch import main
from sdpo.runtime.run_directory import provenance
from sdpo.settings import given, redacted
from sdpo.settings.resolve import resolve
from tests.servers import Answer, FakeServer

MODELS = Answer(raw=json.dumps({"data": [{"id": "here"}]}).encode())


def test_only_the_health_address_is_requested():
    with FakeServer() as server:
        check_health(server.url, "m")
        check_health(server.url + "/")
    assert server.paths == ["/health", "/health"]


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
        assert main(job, [*flags, "--dry-run"]) == 3  # which only says it
        assert main(job, flags) == 0
    shown = capsys.readouterr()
    assert "waiting up to 30 s (SIMULATOR_WAIT)" in shown.out and "HTTP 503" in shown.err


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
