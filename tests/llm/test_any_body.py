"""A body of any shape: a server's answer gives a usable reply or one line of an error, and never anything else."""

import json
from contextlib import ExitStack

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sdpo.errors import SdpoError, ServerError
from sdpo.llm import ClaudeBackend, Client, Meter, OpenAIBackend, Price, Request
from sdpo.llm.health import check_health
from sdpo.users.judge import ApiJudge, Pair
from sdpo.users.simulator import SimulatedUser
from tests.servers import Answer, FakeServer

KEY = "sk-a-key-that-must-not-appear"
PERSONA, PROMPT = "a persona of somebody in particular", "a long and private\nprompt that must not appear"
PRIVATE = (KEY, PERSONA, "long and private", "prompt that must")
REQUEST = Request([{"role": "system", "content": PERSONA}, {"role": "user", "content": PROMPT}], 0.7, 16, {})

WORDS = st.text(max_size=4) | st.sampled_from([
    "fine", "two\nlines", "half a pair \ud83d", "\x1b[2Ka control character", PROMPT, PERSONA, f"Bearer {KEY}",
    json.dumps(PROMPT), repr(PROMPT), "text", "error", "temperature", "context_length_exceeded", "<think>hm", "9" * 40,
])  # fmt: skip
NUMBERS = st.integers() | st.floats() | st.sampled_from([0, -1, 1e999, 402, 429, 503])
NAMES = st.sampled_from(["text", "type", "message", "error", "code", "content", "detail", "loc", "msg", "a"])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | WORDS, inner, max_size=3),
    max_leaves=5,
)
STATUSES = st.sampled_from([200] * 6 + [204, 302, 400, 401, 402, 403, 404, 409, 413, 418, 422, 429, 500, 503, 529])

# Where a value is put, in the answers of both protocols; a place that an answer lacks is added.
PLACES = st.sampled_from([
    "", "choices", "choices.0", "choices.0.message", "choices.0.message.content", "choices.0.message.content.0",
    "choices.0.message.content.0.text", "choices.0.message.refusal", "choices.0.message.reasoning_content",
    "choices.0.finish_reason", "choices.0.error", "content", "content.0", "content.0.text", "content.0.type",
    "stop_reason", "usage", "usage.prompt_tokens", "usage.completion_tokens", "usage.input_tokens",
    "usage.output_tokens", "error", "error.message", "error.code", "error.type", "error.metadata", "message", "detail",
    "detail.0", "detail.0.loc", "detail.0.msg", "object", "type",
])  # fmt: skip
ANSWER = Answer("fine")


def put(body, place: str, value):
    """Return the body with a value at a place, a path of names and indexes."""
    if not place:
        return value
    name, _, rest = place.partition(".")
    if name == "0":
        items = body if isinstance(body, list) and body else [None]
        return [put(items[0], rest, value), *items[1:]]
    fields = body if isinstance(body, dict) else {}
    return fields | {name: put(fields.get(name), rest, value)}


@pytest.fixture(scope="module")
def servers():
    """Return, by protocol, a server that gives `answer` to every request, and the backend that asks it."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        made = {}
        for protocol in ("openai", "claude"):
            server = stack.enter_context(FakeServer(lambda body, number, protocol=protocol: made[protocol][0].answer))
            patch.setenv("ANTHROPIC_BASE_URL", server.root)
            openai = protocol == "openai"
            backend = OpenAIBackend(server.url, "m", KEY, 0) if openai else ClaudeBackend("claude-m", KEY, 0)
            made[protocol] = server, backend
        yield made


def assert_one_line(error: SdpoError) -> None:
    """Check that an error can be shown to its user."""
    message = str(error)
    assert message.isprintable() and len(message) < 1000


def assert_shows_nothing_private(error: SdpoError) -> None:
    assert_one_line(error)
    message = str(error)
    assert not any(words in " ".join(message.split()) for words in PRIVATE)
    assert "no reply within" not in message  # a thread that ended without a word


def assert_usable(backend) -> None:
    """Check what becomes of the backend's reply, at each of its readers."""
    client = Client(backend, timeout=60, meter=Meter(Price(1, 1), max_cost=1e6))
    try:
        (reply,) = client.complete([REQUEST])
    except SdpoError as error:
        return assert_shows_nothing_private(error)
    if isinstance(reply, ServerError):
        return assert_shows_nothing_private(reply)
    json.dumps([reply.text, reply.written], ensure_ascii=False).encode()
    assert isinstance(reply.text, str) and isinstance(reply.written, str)
    assert all(count is None or (type(count) is int and count >= 0) for count in (reply.tokens_in, reply.tokens_out))
    assert 0 <= client.usage.cost < 1e6
    for states in (False, True):
        for follow_up in SimulatedUser(client, PERSONA, 0.7, 16, states).react([PROMPT], ["an answer"]):
            follow_up.text.encode()
            assert follow_up.satisfied in (None, True, False)
            assert follow_up.problem == (None if follow_up.text else "empty")
    assert ApiJudge(client).verdicts([Pair(PERSONA, PROMPT, "x", "y")])[0] in (None, "A", "B", "C")
    return None


def answer_of(protocol: str, place: str, value, status: int = 200, **fields) -> Answer:
    """Return the protocol's answer with a value at a place."""
    body = json.loads(ANSWER.body("/messages" if protocol == "claude" else ""))
    return Answer(raw=json.dumps(put(body, place, value)).encode(), status=status, **fields)


@pytest.mark.parametrize("protocol", ["openai", "claude"])
@hypothesis_settings(max_examples=40, deadline=None)
@given(place=PLACES, value=VALUES, status=STATUSES)
@example(place="choices.0.message.content", value="half a pair \ud83d", status=200)
@example(place="content.0.text", value="half a pair \ud83d", status=200)
@example(place="usage.prompt_tokens", value="7", status=200)
@example(place="usage.input_tokens", value="7", status=200)
@example(place="usage.prompt_tokens", value=-(10**9), status=200)
@example(place="usage.output_tokens", value=1e999, status=200)
@example(place="choices.0.message.refusal", value={"why": "so"}, status=200)
@example(place="error.message", value="\x1b[2Jgone \ud800", status=400)
@example(place="error.message", value=f"[{{'input': {PROMPT!r}}}] {json.dumps(PERSONA)}", status=400)
def test_any_value_at_any_place_of_an_answer(servers, protocol, place, value, status):
    server, backend = servers[protocol]
    server.answer = answer_of(protocol, place, value, status)
    backend._changes.clear()
    assert_usable(backend)


DEEP = 3000  # lists in lists: Python's own recursion ends before
BODIES = [
    b"", b"null", b"[]", b"3", b'"fine"', b"{", b"\xff\xfe{}", b"\x00", b"fine", "“fine”".encode("cp1252"),
    b"data: {}\n\ndata: [DONE]\n\n", b'{"choices": [{"message": {"content": ' + b"1" * 6000 + b"}}]}",
    b"[" * DEEP + b"]" * DEEP, b'{"error": ' * DEEP + b"1" + b"}" * DEEP, b'{"a": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    b'{"error": {"message": "' + b"very " * 20_000 + b'long"}}', b'{"a": 1, "a": 2}', b"NaN",
]  # fmt: skip


@pytest.mark.parametrize("protocol", ["openai", "claude"])
@pytest.mark.parametrize("body", BODIES, ids=map(str, range(len(BODIES))))
def test_any_bytes_with_any_status(servers, protocol, body):
    server, backend = servers[protocol]
    for status in (200, 400, 500):
        for headers in ({}, {"Content-Type": "text/html; charset=none"}, {"Content-Encoding": "gzip"}):
            server.answer = Answer(raw=body, status=status, headers=headers)
            backend._changes.clear()
            assert_usable(backend)


@hypothesis_settings(max_examples=40, deadline=None)
@given(place=st.sampled_from(["", "data", "data.0", "data.0.id", "data.1"]), value=VALUES)
@example(place="data.0.id", value="two\nlines")
@example(place="data.0.id", value="half a pair \ud83d")
@example(place="data.0.id", value="x" * 5000)
def test_any_list_of_models(place, value):
    body = put({"data": [{"id": "another"}]}, place, value)
    with FakeServer(gets={"/v1/models": Answer(raw=json.dumps(body).encode())}) as server:
        try:
            check_health(server.url, "m")
        except SdpoError as error:
            assert_one_line(error)
