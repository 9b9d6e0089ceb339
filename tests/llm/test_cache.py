"""The reply cache and the meter: no paid reply is lost, no request is sent twice, separate draws stay separate."""

import json
import signal
import subprocess
import sys
import threading

import pytest

from sdpo.errors import BudgetReached, ServerError, SettingError
from sdpo.llm import (
    Client,
    Meter,
    OpenAIBackend,
    Price,
    Reply,
    ReplyCache,
    Request,
    RequestRefused,
    ScriptedBackend,
    price_of,
    read_prices,
)
from tests.servers import Answer, FakeServer, prompt_of, until
from tests.worlds import environment


def make_request(text: str, sample: int = 0, temperature: float = 0.7, max_tokens: int = 16) -> Request:
    return Request([{"role": "user", "content": text}], temperature, max_tokens, sample=sample)


class Counting:
    """A backend that answers each request differently and records the requests."""

    kind = "scripted"

    def __init__(self, model: str = "m", fail=lambda text: False) -> None:
        self.name = self.model = model
        self.fail, self.texts, self.lock = fail, [], threading.Lock()

    def ask(self, request, deadline_seconds) -> Reply:
        text = request.messages[-1]["content"]
        with self.lock:
            self.texts.append(text)
            number = len(self.texts)
        if self.fail(text):
            raise ServerError("down")
        return Reply(f"{text} {number}", 10, 5, 0.01)


def texts(outcomes) -> list[str | None]:
    return [outcome.text if isinstance(outcome, Reply) else None for outcome in outcomes]


def test_another_process_gets_every_reply_from_the_cache(tmp_path):
    path = tmp_path / "replies.jsonl"
    first = Client(Counting(), cache=ReplyCache(path)).complete(
        [make_request("a"), make_request("b\u2028"), make_request("a")]
    )
    again = Counting()
    client = Client(again, cache=ReplyCache(path))
    assert texts(client.complete([make_request("a"), make_request("b\u2028"), make_request("a")])) == texts(first)
    assert again.texts == [] and client.usage.cached == 3
    assert len(set(texts(first))) == 3  # equal requests in one batch are two draws


@pytest.mark.parametrize(
    "other",
    [
        make_request("a", sample=1),
        make_request("a", temperature=0.8),
        make_request("a", max_tokens=17),
        make_request("A"),
    ],
    ids=["sample", "temperature", "max_tokens", "prompt"],
)
def test_any_difference_makes_another_request(tmp_path, other):
    client = Client(Counting(), cache=ReplyCache(tmp_path / "replies.jsonl"))
    one = client.complete([make_request("a")])
    assert texts(client.complete([other])) != texts(one)
    assert texts(client.complete([make_request("a")])) == texts(one)


def test_another_model_is_another_request(tmp_path):
    path = tmp_path / "replies.jsonl"
    Client(Counting("m"), cache=ReplyCache(path)).complete([make_request("a")])
    other = Counting("n")
    Client(other, cache=ReplyCache(path)).complete([make_request("a")])
    assert other.texts == ["a"]


def test_a_failed_request_does_not_affect_the_others(tmp_path):
    path = tmp_path / "replies.jsonl"
    numbers = [str(number) for number in range(40)]
    client = Client(Counting(fail=lambda text: text == "7"), 4, cache=ReplyCache(path))
    client.complete([make_request(number) for number in numbers])
    again = Counting()
    Client(again, cache=ReplyCache(path)).complete([make_request(number) for number in numbers])
    assert again.texts == ["7"]


def test_a_refusal_loses_at_most_the_requests_in_flight(tmp_path):
    path = tmp_path / "replies.jsonl"
    with FakeServer(lambda body, number: Answer("no", 400) if number == 20 else Answer("fine", delay=0.05)) as server:
        with pytest.raises(RequestRefused):
            client = Client(OpenAIBackend(server.url, "m"), 4, cache=ReplyCache(path))
            client.complete([make_request(str(number)) for number in range(40)])
        answered = len(server.bodies) - 1
    assert len(ReplyCache(path).paid) >= answered - 4


KILLED = """
import sys, time
from pathlib import Path
from sdpo.llm import *
client = Client(OpenAIBackend(sys.argv[1], "m"), 4, cache=ReplyCache(Path(sys.argv[2])))
client.complete([Request([{"role": "user", "content": str(number)}], 0.7, 16) for number in range(200)])
"""


def test_a_killed_process_repeats_at_most_the_requests_in_flight(tmp_path):
    path = tmp_path / "replies.jsonl"
    with FakeServer(lambda body, number: Answer(prompt_of(body), delay=0.02)) as server:
        process = subprocess.Popen([sys.executable, "-c", KILLED, server.url, path], env=environment())
        assert until(lambda: len(server.bodies) > 60, 30)
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = len(server.bodies)
        client = Client(OpenAIBackend(server.url, "m"), 4, cache=ReplyCache(path))
        replies = client.complete([make_request(str(number)) for number in range(200)])
    assert texts(replies) == [str(number) for number in range(200)]
    assert before < 200 and len(server.bodies) <= 200 + 4


@pytest.mark.parametrize("tail", ['{"key": "', '{"key": "k", "text": "t"', "\x00\x00"])
def test_a_truncated_last_line_is_dropped_and_reported(tmp_path, capsys, tail):
    path = tmp_path / "replies.jsonl"
    Client(Counting(), cache=ReplyCache(path)).complete([make_request("a"), make_request("b")])
    complete = path.read_bytes()
    path.write_bytes(complete + tail.encode())
    cache = ReplyCache(path)
    assert path.read_bytes() == complete and len(cache.paid) == 2
    assert "last line" in capsys.readouterr().err
    Client(Counting(), cache=cache).complete([make_request("c")])
    assert len(ReplyCache(path).paid) == 3 and capsys.readouterr().err == ""


def test_an_invalid_line_is_skipped_and_reported(tmp_path, capsys):
    path = tmp_path / "replies.jsonl"
    Client(Counting(), cache=ReplyCache(path)).complete([make_request("a")])
    path.write_text('{"text": 3}\nnonsense\n' + path.read_text())
    assert len(ReplyCache(path).paid) == 1
    errors = capsys.readouterr().err
    assert "line 1 " in errors and "line 2 " in errors


def test_the_file_contains_replies_but_no_prompts(tmp_path):
    path = tmp_path / "replies.jsonl"
    backend = ScriptedBackend(lambda request: "a reply")
    Client(backend, cache=ReplyCache(path)).complete([make_request("a long and private prompt")])
    (row,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert row["text"] == "a reply" and "private" not in path.read_text()


# Cost


def test_the_meter_adds_up_and_continues_in_a_resumed_run(tmp_path):
    path, price = tmp_path / "replies.jsonl", Price(1.0, 5.0)
    client = Client(Counting(), cache=ReplyCache(path), meter=Meter(price))
    client.complete([make_request(str(number)) for number in range(8)])
    assert (client.usage.requests, client.usage.tokens_in, client.usage.tokens_out) == (8, 80, 40)
    assert client.usage.cost == pytest.approx(8 * price.of(10, 5)) == pytest.approx(8 * 35e-6)
    cache = ReplyCache(path)
    again = Client(Counting(), cache=cache, meter=Meter(price, paid=cache.paid))
    again.complete([make_request(str(number)) for number in range(10)])
    assert (again.usage.requests, again.usage.cached) == (10, 8)
    assert again.usage.cost == pytest.approx(10 * price.of(10, 5))


@pytest.mark.parametrize("concurrency", [1, 3, 32])
def test_the_cost_never_exceeds_its_limit_and_paid_replies_are_kept(tmp_path, concurrency):
    path, price = tmp_path / "replies.jsonl", Price(100.0, 500.0)
    highest_cost = Meter(price).highest_cost(make_request("0" * 4))
    limit = 6 * highest_cost
    with pytest.raises(BudgetReached, match="MAX_COST") as caught:
        client = Client(Counting(), concurrency, cache=ReplyCache(path), meter=Meter(price, limit))
        client.complete([make_request(f"{number:04}") for number in range(100)])
    assert caught.value.exit_code == 5
    assert limit - highest_cost < client.usage.cost <= limit
    cache = ReplyCache(path)
    higher = Client(Counting(), cache=cache, meter=Meter(price, 10 * limit, cache.paid))
    assert higher.usage.cost == pytest.approx(client.usage.cost)
    higher.complete([make_request(f"{number:04}") for number in range(100)])
    assert higher.usage.requests == 100


def test_a_reply_without_token_counts_costs_the_maximum():
    client = Client(ScriptedBackend(lambda request: "x"), meter=Meter(Price(1.0, 5.0)))
    client.complete([make_request("hi")])
    assert client.usage.cost == Meter(Price(1.0, 5.0)).highest_cost(make_request("hi"))


def test_without_a_price_there_is_no_limit():
    client = Client(Counting(), meter=Meter(None, 1e-9))
    assert len(client.complete([make_request("a")])) == 1 and client.usage.cost == 0


def test_the_default_models_price_is_known_with_and_without_its_date(tmp_path):
    assert price_of("claude-haiku-4-5-20251001", read_prices()) == Price(1.0, 5.0)
    assert price_of("claude-haiku-4-5", read_prices()) == Price(1.0, 5.0)
    assert price_of("claude-haiku-4-5-experimental", read_prices()) is None
    own = tmp_path / "prices.json"
    own.write_text('{"my-model": {"in": 0.5, "out": 2}}')
    assert price_of("my-model", read_prices(own)) == Price(0.5, 2.0)
    assert price_of("claude-haiku-4-5", read_prices(own)) is None


@pytest.mark.parametrize("content", ["{", "[]", '{"m": 3}', '{"m": {"in": 1}}', '{"m": {"in": "x", "out": 1}}'])
def test_an_invalid_price_file_is_rejected_by_name(tmp_path, content):
    (tmp_path / "prices.json").write_text(content)
    with pytest.raises(SettingError, match="PRICE_FILE"):
        read_prices(tmp_path / "prices.json")
