"""Tracking is decided before anything is loaded: online, offline with a note, disabled, or one line of error."""

import logging
import os
import socket
from types import SimpleNamespace

import pytest

from sdpo.errors import RunError, SettingError
from sdpo.train import tracking
from sdpo.train.job import run_session
from tests import forks
from tests.servers import Answer, FakeServer
from tests.worlds import environment, job_command, write_replay

KEY = "k" * 40
REPLIES = {
    "valid": Answer(raw=b'{"data":{"viewer":{"id":"x"}}}'),
    "unknown": Answer(raw=b'{"data":{"viewer":null}}'),
    "refused": Answer(status=401),
    "forbidden": Answer(status=403),
    "broken": Answer(status=502),
    "another page": Answer(raw=b"<html>log in to this network</html>"),
    "a list": Answer(raw=b"[]"),
    "cut": Answer(cut=True),
}


@pytest.fixture(autouse=True)
def _no_wandb_variables(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def check(key: str | None = KEY) -> str:
    """Check and return the mode that was chosen."""
    tracking.check_tracking(SimpleNamespace(wandb_api_key=key, report_to="wandb"))
    return os.environ["WANDB_MODE"]


@pytest.fixture
def server(monkeypatch):
    """Return a function that starts wandb's server with this reply; the test's end stops it."""
    started = []

    def start(reply: Answer) -> FakeServer:
        started.append(FakeServer(lambda body, number: reply).__enter__())
        monkeypatch.setenv("WANDB_BASE_URL", started[-1].root)
        return started[-1]

    yield start
    for one in started:
        one.__exit__(None, None, None)


@pytest.mark.parametrize("key", ["abc", "k" * 39, "with space " * 5, "local-abc", f"wandb-{'k' * 39}", "é" * 40])
def test_what_cannot_be_a_key_is_refused_without_a_request(key, server):
    with pytest.raises(SettingError, match="WANDB_API_KEY") as caught:
        asked = server(REPLIES["valid"])
        check(key)
    assert not asked.headers and key not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("key", [KEY, f"local-{KEY}", "k" * 86, "head.pay-load.sig_nature"])
def test_a_key_that_the_server_knows_is_tracked_online(key, server):
    asked = server(REPLIES["valid"])
    assert check(key) == "online" and len(asked.headers) == 1


@pytest.mark.parametrize("reply", ["unknown", "refused", "forbidden"])
def test_a_key_that_the_server_rejects_is_one_line(reply, server):
    server(REPLIES[reply])
    with pytest.raises(SettingError, match="does not accept WANDB_API_KEY") as caught:
        check()
    assert KEY not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("reply", ["broken", "another page", "a list", "cut"])
def test_a_server_that_does_not_respond_means_offline_with_a_note(reply, server, capsys):
    server(REPLIES[reply])
    assert check() == "offline"
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_without_network_tracking_is_offline(monkeypatch, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    assert check() == "offline" and "wandb sync" in capsys.readouterr().out
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://no-such-host.invalid")
    assert check() == "offline"


@pytest.mark.parametrize(
    ("variables", "mode", "names"),
    [
        ({"WANDB_MODE": "offline"}, "offline", ["wandb"]),
        ({"WANDB_MODE": "dryrun"}, "offline", ["wandb"]),
        ({"WANDB_MODE": "Disabled"}, "disabled", []),
        ({"WANDB_DISABLED": "true"}, "disabled", []),
        ({"WANDB_DISABLED": "1", "WANDB_MODE": "online"}, "disabled", []),
        ({"WANDB_DISABLED": "false", "WANDB_MODE": "offline"}, "offline", ["wandb"]),
    ],
)
@pytest.mark.parametrize("key", [KEY, "abc", None])
def test_a_mode_without_a_server_is_honoured_without_a_request(
    variables, mode, names, key, server, monkeypatch, tmp_path
):
    asked = server(REPLIES["refused"])
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert check(key) == mode and tracking.trackers(SimpleNamespace(report_to="wandb")) == names
    tracking.prepare_tracking(SimpleNamespace(output_dir=tmp_path, report_to="wandb"))
    assert os.environ["WANDB_MODE"] == mode and not asked.headers


def test_an_unknown_mode_is_refused(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "of")
    with pytest.raises(SettingError, match="WANDB_MODE=of"):
        check()


def test_the_server_of_wandbs_own_settings_file_is_asked(server, monkeypatch, tmp_path):
    asked = server(REPLIES["valid"])
    folder = tmp_path / ".config" / "wandb"
    folder.mkdir(parents=True)
    (folder / "settings").write_text(f"[default]\nbase_url = {asked.root}/\n")
    monkeypatch.setenv("WANDB_BASE_URL", "")
    assert check() == "online" and len(asked.headers) == 1


def test_an_error_of_wandb_while_the_run_starts_is_one_line(monkeypatch, tmp_path):
    from wandb.errors import CommError

    monkeypatch.setenv("WANDB_MODE", "offline")
    settings = SimpleNamespace(output_dir=tmp_path, run_id="r", sources={}, report_to="wandb", save_only_model=False)

    class Session:
        def run(self):
            raise CommError("entity x not found during upsertBucket")

    monkeypatch.setattr("sdpo.train.job.resume_command", lambda *_: "make x")
    with pytest.raises(RunError, match=r"entity x not found.*resume with: make x"):
        run_session(settings, SimpleNamespace(name="x"), Session)


def test_the_log_file_of_wandb_on_a_full_disk_prints_no_traceback(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(logging, "raiseExceptions", True)
    settings = SimpleNamespace(output_dir=tmp_path, report_to="wandb")
    tracking.prepare_tracking(settings)
    log = logging.FileHandler("/dev/full")
    log.handle(logging.makeLogRecord({"msg": "a line"}))
    assert capsys.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize(("variables", "code"), [({"WANDB_API_KEY": "abc"}, 2), ({"WANDB_DISABLED": "true"}, 0)])
def test_a_job_tracks_as_it_is_told(variables, code, tmp_path):
    replay = write_replay(tmp_path / "rows.jsonl", 16)
    command = job_command(None, tmp_path / "run", replay_jsonl=replay, train_n=16, eval_n=0, run_id="r", guard="off")
    given = {name: value for name, value in environment().items() if not name.startswith("WANDB_")} | variables
    done = forks.run(command, env=given, cwd=tmp_path, timeout=120)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    if code:
        assert done.stderr.startswith("error: WANDB_API_KEY") and len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "run").exists()
    else:
        assert not (tmp_path / "run" / "wandb").exists() and "offline" not in done.stdout
