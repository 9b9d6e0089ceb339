"""Faults of a server, row by row: the outcome of the request, the number of attempts, and the time they take."""

import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass

import pytest

from sdpo.errors import ServerError
from sdpo.llm import ClaudeBackend, Client, OpenAIBackend, Reply, Request, RequestRefused
from tests.servers import Answer, FakeServer, prompt_of

KEY = "sk-a-key-that-must-not-appear"
LONG = "word " * 200_000
RETRIES = 3


@pytest.fixture(params=["openai", "claude"])
def backend_of(request, monkeypatch):
    """Return a function that creates a backend for a server, for each protocol."""

    def make(server: FakeServer, retries: int = RETRIES):
        if request.param == "openai":
            return OpenAIBackend(server.url, "m", KEY, retries)
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.root)
        return ClaudeBackend("claude-m", KEY, retries)

    return make


def make_request(text: str, temperature: float = 0.0) -> Request:
    return Request([{"role": "system", "content": "persona"}, {"role": "user", "content": text}], temperature, 16)


@dataclass(frozen=True)
class Fault:
    """`bad` is the answer to the first `times` attempts, later ones succeed. It may take at most `seconds`."""

    name: str
    bad: Answer
    outcome: str | type[ServerError]  # the reply's text, or the type of the error
    attempts: int
    seconds: float
    times: int = 1
    named: str = ""
    timeout: float = 30.0


ALWAYS = 1000
FAULTS = [
    Fault("400", Answer("no", 400), RequestRefused, 1, 1, ALWAYS, "USER_MODEL_NAME_OR_PATH"),
    Fault("401", Answer("no", 401), RequestRefused, 1, 1, ALWAYS, "_API_KEY"),
    Fault("403", Answer("no", 403), RequestRefused, 1, 1, ALWAYS, "_API_KEY"),
    Fault("404", Answer("no", 404), RequestRefused, 1, 1, ALWAYS, "USER_MODEL_NAME_OR_PATH"),
    Fault("429 with retry-after", Answer("slow", 429, headers={"Retry-After": "1"}), "fine", 2, 3),
    Fault("429 without", Answer("slow", 429), "fine", 2, 3),
    Fault(
        "429 for longer than the timeout",
        Answer("slow", 429, headers={"Retry-After": "60"}),
        ServerError,
        1,
        3,
        ALWAYS,
        timeout=2,
    ),
    Fault("500", Answer("oops", 500), "fine", 2, 3),
    Fault("529", Answer("busy", 529), "fine", 2, 3),
    Fault("503 forever", Answer("oops", 503), ServerError, 1 + RETRIES, 8, ALWAYS),
    Fault("hang", Answer(hang=True), ServerError, 1, 3, ALWAYS, timeout=2),
    Fault("connection reset", Answer(reset=True), "fine", 2, 3),
    Fault("reset mid-body", Answer(cut=True), "fine", 2, 3),
    Fault("truncated JSON", Answer(raw=b'{"id": "1", "cont'), ServerError, 1, 2, ALWAYS),
    Fault("empty text", Answer(""), "", 1, 2, ALWAYS),
    Fault("refusal", Answer("I will not.", declined=True), "", 1, 2, ALWAYS),
    Fault("wrong content type", Answer(raw=b"<p>", headers={"Content-Type": "text/html"}), ServerError, 1, 2, ALWAYS),
    Fault("1 MB reply", Answer(LONG), LONG, 1, 3, ALWAYS),
]


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_a_fault_affects_one_request_only_with_limited_time_and_attempts(fault, backend_of):
    attempts: Counter[str] = Counter()

    def script(body, number):
        attempts[prompt_of(body)] += 1
        return fault.bad if prompt_of(body) == "3" and attempts["3"] <= fault.times else Answer("fine")

    with FakeServer(script) as server:
        client = Client(backend_of(server), timeout=fault.timeout)
        client.complete([make_request("warm up")])
        started = time.monotonic()
        try:
            outcomes = client.complete([make_request(str(number)) for number in range(6)])
        except RequestRefused as refusal:
            outcomes = [refusal]
        seconds = time.monotonic() - started
    assert seconds < fault.seconds
    assert attempts["3"] == fault.attempts
    assert all(count == 1 for prompt, count in attempts.items() if prompt != "3")
    if fault.outcome is RequestRefused:
        assert fault.named in str(outcomes[0]) and "\n" not in str(outcomes[0])
        return
    results = [outcome.text if isinstance(outcome, Reply) else type(outcome) for outcome in outcomes]
    assert results == ["fine"] * 3 + [fault.outcome] + ["fine"] * 2


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_a_reply_that_the_server_broke_off_is_an_error_and_is_not_cached(reason):
    choice = {"index": 0, "message": {"role": "assistant", "content": "Half of"}, "finish_reason": reason}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    with FakeServer(lambda _, number: Answer() if number else Answer(raw=json.dumps(body).encode())) as server:
        client = Client(OpenAIBackend(server.url, "m"))
        (outcome,) = client.complete([make_request("1")])
        assert type(outcome) is ServerError and reason in str(outcome) and "Half of" not in str(outcome)
        (outcome,) = client.complete([make_request("1")])
        assert outcome.text == "fine" and len(server.bodies) == 2


def test_an_argument_that_the_sdk_does_not_accept_gives_a_one_line_error(backend_of, monkeypatch):
    def create(*_):
        raise TypeError(f"create() got an unexpected keyword argument {KEY}")

    with FakeServer() as server:
        backend = backend_of(server)
        monkeypatch.setattr(backend, "_create", create)
        with pytest.raises(RequestRefused, match="make setup") as caught:
            Client(backend).complete([make_request("0")])
    assert server.bodies == [] and KEY not in str(caught.value)


def test_a_lone_surrogate_is_replaced(backend_of):
    with FakeServer() as server:
        assert [reply.text for reply in Client(backend_of(server)).complete([make_request("a\ud800b")])] == ["fine"]
    assert prompt_of(server.bodies[0]) == "a?b"


def test_a_restarted_server_is_reconnected(backend_of):
    first = FakeServer(lambda body, number: Answer("before"))
    with first:
        client = Client(backend_of(first), timeout=30)
        assert [reply.text for reply in client.complete([make_request("one")])] == ["before"]
        port = first._server.server_address[1]
    second = FakeServer(lambda body, number: Answer("after"))
    timer = threading.Timer(0.7, lambda: second.open(port))
    timer.start()
    try:
        assert [reply.text for reply in client.complete([make_request(str(n)) for n in range(4)])] == ["after"] * 4
    finally:
        timer.join()
        second.__exit__()
    assert len(second.bodies) == 4


def test_ten_percent_failures_lose_nothing_and_repeat_no_answered_request(backend_of):
    draw, attempts, answered, lock = random.Random(3), Counter(), Counter(), threading.Lock()
    bad = [Answer("oops", 500), Answer("busy", 529), Answer(reset=True), Answer("slow", 429), Answer(cut=True)]

    def script(body, number):
        prompt = prompt_of(body)
        with lock:
            attempts[prompt] += 1
            if draw.random() < 0.1 and attempts[prompt] <= RETRIES:
                return draw.choice(bad)
            answered[prompt] += 1
        return Answer(prompt)

    numbers = [str(number) for number in range(1000)]
    with FakeServer(script) as server:
        client = Client(backend_of(server), timeout=60)
        replies = client.complete([make_request(number) for number in numbers])
    assert [reply.text for reply in replies] == numbers
    assert set(answered.values()) == {1} and server.most <= 32
    assert client.usage.retries == len(server.bodies) - 1000 > 50
    assert (client.usage.requests, client.usage.failures) == (1000, 0)


@pytest.mark.parametrize("concurrency", [1, 8, 32])
def test_the_concurrency_is_reached_and_usage_seconds_are_wall_time(concurrency, backend_of):
    with FakeServer(lambda body, number: Answer(crowd=concurrency, delay=0.2)) as server:
        client = Client(backend_of(server), concurrency)
        client.complete([make_request(str(number)) for number in range(2 * concurrency)])
    assert server.most == concurrency
    assert client.usage.seconds >= 0.4


def test_a_batch_has_its_own_deadline(backend_of):
    with FakeServer(lambda body, number: Answer(hang=True)) as server:
        client = Client(backend_of(server), 2, timeout=1.0, batch_timeout=1.5)
        started = time.monotonic()
        outcomes = client.complete([make_request(str(number)) for number in range(20)])
        assert time.monotonic() - started < 4
    assert all(isinstance(outcome, ServerError) for outcome in outcomes)
    assert len(server.bodies) <= 4 and client.usage.failures == 20
