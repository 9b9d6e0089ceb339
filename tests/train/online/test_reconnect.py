"""A user who goes away: the run is saved, waits, and goes on or ends; alone and with two processes."""

import threading
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from sdpo.errors import RunStopped, SimulatorUnavailable
from sdpo.train.online import reconnect
from sdpo.train.online.reconnect import ReconnectCallback
from tests.servers import Answer, FakeServer, prompt_of
from tests.worlds import rows_of, run_job, user_by_rule

GONE = SimulatorUnavailable("3 of 4 reactions did not come.")
DEAD = "http://127.0.0.1:9/v1"


def reconnecting(address: str, seconds: float, stopping=lambda: False, **options) -> ReconnectCallback:
    """Return one whose trainer only says that it is alone; `saved` counts the checkpoints."""
    trainer = SimpleNamespace(accelerator=SimpleNamespace(is_main_process=True), state=SimpleNamespace(global_step=3))
    saved = []
    made = ReconnectCallback(
        trainer, SimpleNamespace(round=0), address, seconds, lambda: saved.append(3), stopping, **options
    )
    made.saved = saved
    return made


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(reconnect, "FIRST_PAUSE", 0.2)
    monkeypatch.setattr(reconnect, "REPORT_EVERY_SECONDS", 0.5)


def test_a_user_who_stays_away_ends_the_run_after_the_wait(capsys):
    waiting, started = reconnecting(DEAD, 1.5), time.monotonic()
    with pytest.raises(SimulatorUnavailable, match="3 of 4"):
        waiting.wait(GONE)
    assert 1.5 <= time.monotonic() - started < 5
    said = capsys.readouterr().out
    assert "1.5 s (SIMULATOR_WAIT)" in said and "step 3 is saved" in said and "still away" in said
    assert waiting.saved == [3]


def test_without_a_wait_it_ends_at_once_but_saved():
    waiting = reconnecting(DEAD, 0)
    with pytest.raises(SimulatorUnavailable):
        waiting.wait(GONE)
    assert waiting.saved == [3]


def test_a_user_who_is_back_is_asked_again_and_the_clock_of_a_step_goes_on(capsys):
    with FakeServer() as server:
        waiting = reconnecting(server.url, 2)
        waiting.wait(GONE)
        started = time.monotonic()
        with pytest.raises(SimulatorUnavailable):  # its server answers, but never with what was asked
            for _ in range(20):
                waiting.wait(GONE)
        assert time.monotonic() - started < 6
    assert waiting.saved == [3] and "asking again" in capsys.readouterr().out
    waiting.on_step_begin(None, SimpleNamespace(global_step=4), None)
    assert waiting.user.round == 4


def test_a_signal_ends_the_wait_at_once():
    asked = threading.Event()
    threading.Timer(0.5, asked.set).start()
    started = time.monotonic()
    with pytest.raises(RunStopped):
        reconnecting(DEAD, 900, asked.is_set).wait(GONE)
    assert time.monotonic() - started < 3


def test_a_server_of_ours_that_died_is_not_waited_for():
    started = time.monotonic()
    with pytest.raises(SimulatorUnavailable):
        reconnecting(DEAD, 900, ours=True).wait(GONE)
    assert time.monotonic() - started < 5


def test_two_processes_wait_together_and_go_on_where_they_were(tmp_path):
    rule, away_until, replies = user_by_rule(), [None], Counter()

    def script(body, number):
        if number >= 20 and away_until[0] is None:
            away_until[0] = time.monotonic() + 6
        if away_until[0] is not None and time.monotonic() < away_until[0]:
            return Answer(reset=True)
        replies[prompt_of(body)] += 1
        return rule(body, number)

    with FakeServer(script) as server:
        done = run_job(
            server.url, tmp_path / "run", gpus=2, bs=8, train_n=48, eval_n=0, save_steps=50,
            simulator_timeout=2, simulator_wait=120,
        )  # fmt: skip
    assert "is away" in done.stdout and "step 1 is saved" in done.stdout and "asking again" in done.stdout
    assert (tmp_path / "run" / "checkpoint-1" / "complete.json").exists()
    assert [row["interactions"] for row in rows_of(tmp_path / "run" / "metrics.jsonl")] == [16, 32, 48]
    assert sum(replies.values()) == 48  # each process asked for its own, and only for what was missing
    assert [len(rows_of(tmp_path / "run" / f"replies-{rank}.jsonl")) for rank in (0, 1)] == [24, 24]
