"""A user who stops responding: the run is saved, waits, then resumes or ends; with one process and with two."""

import threading
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from sdpo.errors import RunStopped, SimulatorUnavailable
from sdpo.train.online import reconnect
from sdpo.train.online.reconnect import ReconnectCallback
from sdpo.users.trial import PROBES
from tests.servers import Answer, FakeServer, prompt_of
from tests.worlds import rows_of, run_job, user_by_rule

pytestmark = pytest.mark.slow

FAILURE = SimulatorUnavailable("3 of 4 reactions did not come.")
NO_SERVER = "http://127.0.0.1:9/v1"


def reconnecting(address: str, seconds: float, stopping=lambda: False, **options) -> ReconnectCallback:
    """Return a callback for a stub trainer with one process; `saved` lists the steps that it saved."""
    trainer = SimpleNamespace(accelerator=SimpleNamespace(is_main_process=True), state=SimpleNamespace(global_step=3))
    saved = []
    callback = ReconnectCallback(
        trainer, SimpleNamespace(round=0), address, seconds, lambda: saved.append(3), stopping, **options
    )
    callback.saved = saved
    return callback


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(reconnect, "FIRST_PAUSE", 0.2)
    monkeypatch.setattr(reconnect, "REPORT_EVERY_SECONDS", 0.5)


def test_a_user_who_never_responds_ends_the_run_after_the_wait(capsys):
    waiting, started = reconnecting(NO_SERVER, 1.5), time.monotonic()
    with pytest.raises(SimulatorUnavailable, match="3 of 4"):
        waiting.wait(FAILURE)
    assert 1.5 <= time.monotonic() - started < 5
    output = capsys.readouterr().out
    assert "1.5 s (SIMULATOR_WAIT)" in output and "step 3 is saved" in output and "still no response" in output
    assert waiting.saved == [3]


def test_without_a_wait_the_run_is_saved_and_ends_at_once():
    waiting = reconnecting(NO_SERVER, 0)
    with pytest.raises(SimulatorUnavailable):
        waiting.wait(FAILURE)
    assert waiting.saved == [3]


def test_a_user_who_responds_again_gets_the_requests_and_the_wait_counts_per_step(capsys):
    with FakeServer() as server:
        waiting = reconnecting(server.url, 2)
        waiting.wait(FAILURE)
        started = time.monotonic()
        with pytest.raises(SimulatorUnavailable):  # the server is healthy, but the replies never come
            for _ in range(20):
                waiting.wait(FAILURE)
        assert time.monotonic() - started < 6
    assert waiting.saved == [3] and "requesting the missing replies again" in capsys.readouterr().out
    waiting.on_step_begin(None, SimpleNamespace(global_step=4), None)
    assert waiting.user.round == 4


def test_a_signal_ends_the_wait_at_once():
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    started = time.monotonic()
    with pytest.raises(RunStopped):
        reconnecting(NO_SERVER, 900, stop.is_set).wait(FAILURE)
    assert time.monotonic() - started < 3


def test_a_server_that_the_job_started_is_not_waited_for_once_it_is_down():
    started = time.monotonic()
    with pytest.raises(SimulatorUnavailable):
        reconnecting(NO_SERVER, 900, started_for_job=True).wait(FAILURE)
    assert time.monotonic() - started < 5


def test_two_processes_wait_together_and_resume_the_step(tmp_path):
    rule, down_until, replies = user_by_rule(), [None], Counter()

    def script(body, number):
        if number >= PROBES + 20 and down_until[0] is None:
            down_until[0] = time.monotonic() + 6
        if down_until[0] is not None and time.monotonic() < down_until[0]:
            return Answer(reset=True)
        replies[prompt_of(body)] += 1
        return rule(body, number)

    with FakeServer(script) as server:
        done = run_job(
            server.url, tmp_path / "run", gpus=2, bs=8, train_n=48, eval_n=0, save_steps=50,
            simulator_timeout=2, simulator_wait=120,
        )  # fmt: skip
    assert "does not respond" in done.stdout and "step 1 is saved" in done.stdout
    assert "requesting the missing replies again" in done.stdout
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-3"]  # it replaced the first
    assert [row["interactions"] for row in rows_of(tmp_path / "run" / "metrics.jsonl")] == [16, 32, 48]
    assert (
        sum(replies.values()) == PROBES + 48
    )  # each process requested its own replies, and only the missing ones again
    assert [len(rows_of(tmp_path / "run" / f"replies-{rank}.jsonl")) for rank in (0, 1)] == [PROBES + 24, 24]
