"""Faults of the simulated user, as in the README's table, each in a complete job."""

import pytest

from sdpo.users.trial import PROBES
from tests.servers import Answer, FakeServer
from tests.worlds import PROJECT, rows_of, run_job, user_by_rule

pytestmark = pytest.mark.slow

ONE_LINE_ERROR = 1


def test_a_missing_server_is_reported_before_a_model_is_loaded(tmp_path):
    done = run_job("http://127.0.0.1:9/v1", tmp_path / "run", expect=3, model=str(PROJECT / "sdpo/tiny/model"))
    assert "make simulator" in done.stderr and len(done.stderr.strip().splitlines()) == ONE_LINE_ERROR
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_server_that_dies_during_a_step_saves_the_run_which_can_then_be_resumed(tmp_path):
    out, rule = tmp_path / "run", user_by_rule()
    with FakeServer(lambda body, number: rule(body, number) if number < PROBES + 40 else Answer(reset=True)) as server:
        done = run_job(server.url, out, expect=4, simulator_timeout=3, save_steps=50)
    assert "Traceback" not in done.stderr and "RUN_ID=" in done.stderr
    assert (out / "checkpoint-2" / "complete.json").exists()
    with FakeServer(rule) as server:
        run_job(server.url, out, simulator_timeout=3, save_steps=50)
    assert [row["step"] for row in rows_of(out / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_requests_to_a_slow_server_are_concurrent(tmp_path):
    rule = user_by_rule()

    def slowly(body, number):
        return Answer(rule(body, number).text, crowd=16, delay=0.5)

    with FakeServer(slowly) as server:
        run_job(server.url, tmp_path / "run", train_n=32, eval_n=0, user_trial="off")
    assert server.most == 16
    assert all(row["seconds"]["user"] < 16 * 0.5 / 2 for row in rows_of(tmp_path / "run" / "metrics.jsonl"))


@pytest.mark.parametrize(("reply", "counted"), [("  \n", "empty"), ("word " * 2000, "too_long")])
def test_unusable_replies_are_left_out_and_counted(tmp_path, reply, counted):
    rule = user_by_rule()
    with FakeServer(lambda body, number: Answer(reply) if number % 4 == 0 else rule(body, number)) as server:
        run_job(server.url, tmp_path / "run", train_n=32, eval_n=0, user_trial="off")
    for row in rows_of(tmp_path / "run" / "metrics.jsonl"):
        assert row[counted] == 4 and row["usable"] == 12


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ({"content": None}, ["an empty reply", "USER_MODEL_NAME_OR_PATH"]),
        ({"content": "<think>Okay, the user wants no emojis"}, ["“<think>Okay, the user wants", "USER_MAX_TOKENS"]),
    ],
)
def test_a_user_whose_first_replies_hold_nothing_ends_the_run_before_a_step(tmp_path, message, shown):
    with FakeServer(lambda body, number: Answer(message=message)) as server:
        done = run_job(server.url, tmp_path / "run", expect=1, train_n=64, eval_n=0, user_trial="off")
        assert len(server.bodies) == 16
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert "16 of the first 16 replies of the simulated user" in line and all(text in line for text in shown)
    assert "Traceback" not in done.stderr and not (tmp_path / "run" / "metrics.jsonl").exists()
