"""Starting and stopping the simulated user's server."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from sdpo.errors import ServerError, SettingError
from sdpo.llm import Client, OpenAIBackend, Reply, Request
from sdpo.llm import server as server_module
from sdpo.llm.server import check_health, serve
from tests.servers import FakeServer, until

pytestmark = pytest.mark.slow

# A process that never becomes ready.
SLEEP = "import time; time.sleep(600)"


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> str:
    from sdpo.tiny.build import build_model
    from sdpo.tiny.training_data import build_tokenizer

    folder = tmp_path_factory.mktemp("tiny") / "model"
    tokenizer = build_tokenizer(texts=200)
    build_model(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id, 0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def served_pid(url: str) -> int:
    """Return the process that serves the URL, found by the port on its command line."""
    port = url.removesuffix("/v1").rpartition(":")[2]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--port" in words and words[words.index(b"--port") + 1] == port.encode():
            return int(process.name)
    raise AssertionError("no such process")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


needs_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@needs_proc
def test_a_real_server_samples_gets_no_secrets_and_ends(tiny_model, tmp_path, monkeypatch):
    for name in ("ANTHROPIC_API_KEY", "WANDB_API_KEY", "SOME_PASSWORD", "WORLD_SIZE", "LOCAL_RANK", "ACCELERATE_X"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("HF_TOKEN", "needed")
    log = tmp_path / "logs" / "simulator.log"
    with serve(tiny_model, gpu="", log_path=log, timeout=120, temperature=0.7) as url:
        check_health(url, tiny_model)
        pid = served_pid(url)
        names = {entry.partition(b"=")[0].decode() for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")}
        assert "HF_TOKEN" in names
        assert not names & {"ANTHROPIC_API_KEY", "WANDB_API_KEY", "SOME_PASSWORD", "WORLD_SIZE", "LOCAL_RANK"}
        assert "ACCELERATE_X" not in names
        assert os.getsid(pid) == pid
        question = Request([{"role": "user", "content": "Hello"}], 0.7, 12)
        long = Request([{"role": "user", "content": "Hello. " * 500}], 0.7, 12)  # more than one batch of tokens
        replies = Client(OpenAIBackend(url, tiny_model), timeout=60).complete([question] * 8 + [long])
        assert all(isinstance(reply, Reply) for reply in replies)
        assert {reply.tokens_out for reply in replies} <= set(range(1, 13))
        assert replies[-1].tokens_in > 1024
        assert len({reply.text for reply in replies[:8]}) > 1
    assert not alive(pid)
    assert log.stat().st_size > 0
    with pytest.raises(ServerError):
        check_health(url)


def test_a_server_that_ends_early_is_reported_with_its_last_error(tmp_path, monkeypatch):
    broken = [sys.executable, "-c", "print('loading')\nraise OSError('no such weights')"]
    monkeypatch.setattr("sdpo.llm.server._command", lambda *_: broken)
    log = tmp_path / "log"
    log.write_text("ValueError: of an earlier run\n")
    with pytest.raises(ServerError) as caught, serve("m", log_path=log, timeout=60):
        pass
    for text in ("no such weights", str(log)):
        assert text in str(caught.value)
    assert "earlier" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_server_that_takes_too_long_is_reported_and_stopped(tmp_path, monkeypatch):
    pid_file = tmp_path / "pid"
    slow = [sys.executable, "-c", f"import os; open({str(pid_file)!r}, 'w').write(str(os.getpid())); {SLEEP}"]
    monkeypatch.setattr("sdpo.llm.server._command", lambda *_: slow)
    with pytest.raises(ServerError), serve("m", log_path=tmp_path / "log", timeout=2):
        pass
    assert not alive(int(pid_file.read_text()))


def test_a_server_that_ignores_sigterm_is_killed(tmp_path, monkeypatch):
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('started', flush=True); " + SLEEP
    monkeypatch.setattr("sdpo.llm.server._command", lambda *_: [sys.executable, "-c", stubborn])
    monkeypatch.setattr("sdpo.llm.server.STOP_SECONDS", 0.5)
    log = tmp_path / "log"
    monkeypatch.setattr("sdpo.llm.server._wait", lambda *_: until(lambda: b"started" in log.read_bytes()))
    started = recorded(monkeypatch)
    with pytest.raises(KeyError), serve("m", log_path=log):
        raise KeyError("the job fails")
    assert [process.returncode for process in started] == [-signal.SIGKILL]


def recorded(monkeypatch) -> list[subprocess.Popen]:
    """Return a list to which processes that are started from now on are added."""
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            started.append(self)

    monkeypatch.setattr("subprocess.Popen", Recorded)
    return started


def test_a_server_that_ends_during_the_job_is_reported(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("sdpo.llm.server._command", lambda *_: [sys.executable, "-c", SLEEP])
    monkeypatch.setattr("sdpo.llm.server._wait", lambda *_: None)
    started = recorded(monkeypatch)
    with serve("m", log_path=tmp_path / "log"):
        started[0].kill()
        started[0].wait()
    assert str(tmp_path / "log") in capfd.readouterr().err


@needs_proc
def test_the_server_ends_when_its_parent_is_killed(tmp_path):
    script = (
        "import sys, time, sdpo.llm.server as server; from pathlib import Path\n"
        f"server._command = lambda *_: [sys.executable, '-c', 'import os; print(os.getpid(), flush=True); {SLEEP}']\n"
        "server._wait = lambda *_: None\n"
        f"with server.serve('m', log_path=Path({str(tmp_path / 'log')!r})):\n"
        "    time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script])
    log = tmp_path / "log"
    try:
        assert until(lambda: log.exists() and log.read_text().endswith("\n"), 30)
        child = int(log.read_text())
        assert alive(child)
    finally:
        parent.kill()
        parent.wait()
    assert until(lambda: not alive(child))


@pytest.mark.parametrize(
    ("host", "reachable", "elsewhere"), [("127.0.0.1", "127.0.0.1", False), ("0.0.0.0", "127.0.0.1", True)]
)
def test_the_server_listens_on_the_given_address_only(tmp_path, monkeypatch, host, reachable, elsewhere):
    """A file server replaces the real one, with the address that the real one would get."""
    (tmp_path / "health").write_text("healthy")
    real = server_module._command

    def command(*arguments):
        words = real(*arguments)
        host, port = (words[words.index(flag) + 1] for flag in ("--host", "--port"))
        return [sys.executable, "-m", "http.server", "--directory", str(tmp_path), "--bind", host, port]

    monkeypatch.setattr("sdpo.llm.server._command", command)
    with serve("m", host=host, log_path=tmp_path / "log", timeout=60) as url:
        assert urlsplit(url).hostname == reachable
        check_health(url)
        other = url.replace(reachable, "127.0.0.2")
        if elsewhere:
            check_health(other)
        else:
            with pytest.raises(ServerError):
                check_health(other)


def test_a_port_in_use_is_reported_before_the_server_starts(tmp_path):
    log = tmp_path / "log"
    with FakeServer() as server:
        port = int(server.root.rpartition(":")[2])
        with pytest.raises(ServerError, match="Port"), serve("m", port=port, log_path=log):
            pass
    assert not log.exists()


def test_a_path_with_an_at_sign_is_a_setting_error(tmp_path):
    folder = tmp_path / "me@home"
    folder.mkdir()
    with pytest.raises(SettingError, match="me@home"), serve(str(folder), log_path=tmp_path / "log"):
        pass
