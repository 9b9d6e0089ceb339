"""What servers refuse, each in its own words: the request is changed once and for all, or the words are shown."""

import json
from itertools import pairwise

import pytest

from sdpo.errors import ServerError
from sdpo.llm import ClaudeBackend, Client, OpenAIBackend, Reply, Request, RequestRefused
from sdpo.llm.refusals import quotable
from tests.servers import Answer, FakeServer, prompt_of

KEY = "sk-a-key-that-must-not-appear"
PERSONA, PROMPT = "a persona of somebody in particular", "a long and private prompt that must not appear"
SCHEMA = {"type": "object", "properties": {}}


def request(text: str = PROMPT, schema: dict | None = None, system: bool = True) -> Request:
    messages = [{"role": "system", "content": PERSONA}] if system else []
    return Request([*messages, {"role": "user", "content": text}], 0.7, 16, schema)


def client(server: FakeServer, **settings) -> Client:
    return Client(OpenAIBackend(server.url, "m", KEY, retries=2), **settings)


def error(message: str, status: int = 400, **fields) -> Answer:
    return Answer(raw=json.dumps({"error": {"message": message} | fields}).encode(), status=status)


def detail(status: int, value) -> Answer:
    return Answer(raw=json.dumps({"detail": value}).encode(), status=status)


THINKS, FORMAT = "chat_template_kwargs", "response_format"
# What a server refuses, by the field of the request, and its words.
REFUSED_FIELDS = [
    (THINKS, error("Unrecognized request argument supplied: chat_template_kwargs")),
    (THINKS, detail(422, "Unexpected fields in the request: {'chat_template_kwargs'}")),
    (
        THINKS,
        detail(422, [{"loc": ["body", "chat_template_kwargs"], "msg": "Extra inputs", "input": PROMPT}]),
    ),
    (THINKS, Answer(raw=b"Bad request", status=400)),
    (THINKS, Answer(raw=b"", status=422)),
    (FORMAT, error("response_format is not supported by this model")),
    (FORMAT, error(f"Bad request for {PROMPT}")),
    ("temperature", error("Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) "
                          "value is supported.", param="temperature", code="unsupported_value")),
    ("max_tokens", error("Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                         "'max_completion_tokens' instead.", code="unsupported_parameter")),
]  # fmt: skip


@pytest.mark.parametrize(("field", "refusal"), REFUSED_FIELDS)
def test_a_field_that_a_server_refuses_is_left_out_from_then_on(field, refusal):
    with FakeServer(lambda body, number: refusal if field in body else Answer(prompt_of(body))) as server:
        asker = client(server, concurrency=1)
        for text in ("one", "two"):
            replies = asker.complete([request(text, SCHEMA), request(text * 2, SCHEMA)])
            assert [reply.text for reply in replies] == [text, text * 2]
    # One refusal, or two if the server does not say what it refuses; and nothing else is left out.
    assert len(server.bodies) <= 4 + 2
    fields = {THINKS, FORMAT, "temperature", "max_tokens", "model", "messages"}
    instead = {"max_completion_tokens"} if field == "max_tokens" else set()
    assert all(set(body) == fields - {field} | instead for body in server.bodies[-3:])


def test_a_newer_model_that_refuses_several_fields_gets_none_of_them(capsys):
    def script(body, number):
        for field, answer in reversed(REFUSED_FIELDS):
            if field in body and field != FORMAT:
                return answer
        return Answer("fine")

    with FakeServer(script) as server:
        asker = client(server, concurrency=1)
        assert [reply.text for reply in asker.complete([request(str(n)) for n in range(3)])] == ["fine"] * 3
    assert len(server.bodies) == 3 + 3
    assert set(server.bodies[-1]) == {"model", "messages", "max_completion_tokens"}
    assert capsys.readouterr().err.count("takes no temperature") == 1


@pytest.mark.parametrize(
    "refusal",
    [
        error("System role not supported"),
        error("Conversation roles must alternate user/assistant/user/assistant/..."),
        error("Unsupported value: 'messages[0].role' does not support 'system' with this model."),
        error("Developer instruction is not enabled for models/m"),
        error("System role not supported", 500),
        Answer(raw=b"template error", status=400),
    ],
)
def test_without_a_system_role_its_text_goes_before_the_users(refusal, capsys):
    with FakeServer(lambda body, number: refusal if len(body["messages"]) > 1 else Answer("fine")) as server:
        asker = client(server, concurrency=1)
        assert [reply.text for reply in asker.complete([request(), request("two")])] == ["fine"] * 2
    assert server.bodies[-1]["messages"] == [{"role": "user", "content": f"{PERSONA}\n\ntwo"}]
    assert len(server.bodies) <= 4
    assert THINKS in server.bodies[-1]
    assert "takes no system message" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "max_tokens={asked} cannot be greater than max_model_len={most}. Please request fewer output tokens.",
        "max_tokens is too large: {asked}. This model supports at most {most} completion tokens.",
        "max_tokens: {asked} > {most}, which is the maximum allowed number of output tokens for m",
    ],
)
def test_a_reply_is_never_asked_to_be_longer_than_a_server_said_that_it_can_be(words):
    def script(body, number):
        asked = body["max_tokens"]
        return error(words.format(asked=asked, most=12)) if asked > 12 else Answer(f"{asked} of {prompt_of(body)}")

    with FakeServer(script) as server:
        asker = client(server, concurrency=1)
        assert [reply.text for reply in asker.complete([request("a"), request("b")])] == ["12 of a", "12 of b"]
    assert [body["max_tokens"] for body in server.bodies] == [16, 12, 12]


def test_a_model_that_fills_structured_output_with_blanks_is_asked_for_text(capsys):
    def script(body, number):
        return Answer('{"satisfied":' + "\n" * 51 if FORMAT in body else f"text {prompt_of(body)}")

    with FakeServer(script) as server:
        asker = client(server, concurrency=1)
        replies = asker.complete([request("a", SCHEMA), request("b", SCHEMA)])
        assert [reply.text for reply in replies] == ["text a", "text b"]
    assert [FORMAT in body for body in server.bodies] == [True, False, False]
    assert capsys.readouterr().err.count("fills structured output with blanks") == 1


def test_a_temperature_out_of_range_is_not_left_out():
    refusal = error("Invalid 'temperature': decimal above maximum value. Expected a value <= 2")
    script = lambda body, number: refusal if "temperature" in body else Answer("fine")  # noqa: E731
    with FakeServer(script) as server, pytest.raises(RequestRefused, match="above maximum value"):
        client(server).complete([request()])


def test_what_a_server_took_before_is_not_left_out_because_of_one_bad_request():
    script = {"bad": error("no"), "long": error("This model's maximum context length is 16 tokens.")}
    with FakeServer(lambda body, number: script.get(prompt_of(body), Answer("fine"))) as server:
        asker = client(server, concurrency=1)
        asker.complete([request("good", SCHEMA)])
        for text in ("bad", "long"):
            with pytest.raises(RequestRefused):
                asker.complete([request(text, SCHEMA)])
        asker.complete([request("fine", SCHEMA)])
    assert len(server.bodies) == 4 and all(THINKS in body and FORMAT in body for body in server.bodies)


WORDS = [
    (error("You exceeded your quota.", 429, code="insufficient_quota"), "exceeded your quota", "top up"),
    (error("You exceeded your quota.", 429, type="insufficient_quota"), "exceeded your quota", "top up"),
    (error("Insufficient Balance", 402), "Insufficient Balance", "top up"),
    (Answer(raw=b'{"error": "Payment Required"}', status=402), "Payment Required", "top up"),
    (error("This model's maximum context length is 4096 tokens. However, you requested 5000 tokens."),
     "maximum context length is 4096 tokens", "longer context"),
    (error("'max_tokens' or 'max_completion_tokens' is too large: 16. This model's maximum context length is 9 tokens"),
     "maximum context length is 9 tokens", "longer context"),
    (error("too big", code="context_length_exceeded"), "too big", "USER_MODEL_NAME_OR_PATH"),
    (Answer(raw=b"Payload Too Large", status=413), "Payload Too Large", "longer context"),
    (Answer(raw=b"<html>413</html>", status=413), "HTTP 413)", "longer context"),
    (error("Model m requires a Pro subscription.", 403), "requires a Pro subscription", "SIMULATOR_API_KEY"),
    (detail(400, f"cannot serve “{PROMPT}”: the adapter is gone"), "the adapter is gone", "USER_MODEL_NAME_OR_PATH"),
    (Answer(raw=json.dumps({"error": {"message": "No credits left", "code": 402}}).encode()), "No credits left",
     "top up"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "words", "advice"), WORDS)
def test_what_no_retry_resolves_is_raised_at_once_with_the_servers_words(answer, words, advice):
    with FakeServer(lambda body, number: answer) as server, pytest.raises(RequestRefused) as caught:
        client(server).complete([request()])
    assert words in str(caught.value) and advice in str(caught.value) and "\n" not in str(caught.value)
    assert PROMPT not in str(caught.value) and KEY not in str(caught.value) and PERSONA not in str(caught.value)
    if advice != "USER_MODEL_NAME_OR_PATH":
        assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (error("Loading model", 503, type="unavailable_error", code=503), "Loading model"),
        (
            Answer(raw=b'{"error": "Model m is currently loading", "estimated_time": 20}', status=503),
            "currently loading",
        ),
        (error("Rate limit reached: 30000 tokens per minute.", 429, code="rate_limit_exceeded"), "Rate limit reached"),
        (error("upstream is down", 200, code=502), "upstream is down"),
        (error("it went wrong", 200), "it went wrong"),
        (
            Answer(raw=b'{"choices": [{"error": {"message": "it broke", "code": 502}, "finish_reason": "error"}]}'),
            "it broke",
        ),
        (error(f"cannot do {PROMPT}", 500), "cannot do …"),
    ],
)
def test_what_may_pass_is_an_error_with_the_servers_words(answer, words):
    with FakeServer(lambda body, number: answer) as server:
        (outcome,) = client(server, timeout=20).complete([request()])
    assert isinstance(outcome, ServerError) and not isinstance(outcome, RequestRefused)
    assert words in str(outcome) and PROMPT not in str(outcome) and "\n" not in str(outcome)


def test_a_spent_quota_of_claude_is_raised_at_once(monkeypatch):
    answer = Answer("Your credit balance is too low to access the API.", 400)
    with FakeServer(lambda body, number: answer) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.root)
        with pytest.raises(RequestRefused, match="credit balance is too low"):
            Client(ClaudeBackend("claude-m", KEY)).complete([request(schema=SCHEMA)])
    assert len(server.bodies) == 1


class PathServer(FakeServer):
    """A server that knows the path of the OpenAI API only under /v1, and answers others with `elsewhere`."""

    def __init__(self, elsewhere: Answer) -> None:
        super().__init__(
            lambda body, number: Answer("fine"), gets={"/v1/models": Answer(raw=b'{"data": [{"id": "m"}]}')}
        )
        self.elsewhere = elsewhere
        self.chats: list[str] = []

    def answer_at(self, path: str) -> Answer | None:
        self.chats.append(path)
        return None if path == "/v1/chat/completions" else self.elsewhere


@pytest.mark.parametrize(
    "elsewhere",
    [
        Answer("Not Found", 404),
        Answer(raw=b"404 page not found", status=404),
        Answer(raw=b"<html></html>", status=405, headers={"Content-Type": "text/html"}),
        Answer(raw=b"<html></html>", headers={"Content-Type": "text/html"}),
    ],
)
def test_a_bare_address_gets_v1_and_it_is_said(elsewhere, capsys):
    with PathServer(elsewhere) as server:
        asker = Client(OpenAIBackend(server.root, "m", KEY), concurrency=1)
        assert [reply.text for reply in asker.complete([request(str(n)) for n in range(3)])] == ["fine"] * 3
    assert server.chats == ["/chat/completions", *["/v1/chat/completions"] * 3]
    assert capsys.readouterr().err.count("/v1 is added to the address") == 1


def test_an_address_of_the_complete_path_is_that_of_the_api():
    with PathServer(Answer("Not Found", 404)) as server:
        (reply,) = Client(OpenAIBackend(f"{server.url}/chat/completions", "m", KEY)).complete([request()])
    assert isinstance(reply, Reply) and server.chats == ["/v1/chat/completions"]


def test_a_bare_address_that_does_not_know_v1_either_is_reported_as_given():
    nothing = Answer("nothing here", 404)
    with FakeServer(lambda body, number: nothing) as server, pytest.raises(RequestRefused, match="nothing") as caught:
        Client(OpenAIBackend(server.root, "m", KEY)).complete([request()])
    assert "SIMULATOR_URL" in str(caught.value) and len(server.bodies) == 2


def test_words_are_quoted_without_stretches_of_private_texts():
    prompt = "Tell me about the weather in Lisbon and the temperature of the sea.\nThanks!"
    words = "invalid prompt 'Tell me about the weather in Lisbon and the temp…': unsupported 'temperature' value"
    shown = quotable(words, [prompt, KEY])
    assert "Lisbon" not in shown and "unsupported 'temperature' value" in shown
    assert quotable(f"{KEY} is wrong", [prompt, KEY]) == quotable("secret42 is wrong", ["secret42"]) == ": … is wrong"
    assert quotable(prompt, [prompt]) == ""
    assert quotable("no: Authorization: Bearer sk-another-key-of-somebody is wrong", []) == ": no: … … is wrong"
    assert quotable("4711 is not it", ["4711"]) == ": … is not it"
    assert len(quotable("x y " * 1000, [])) < 310
    for shown in (
        repr(prompt),
        json.dumps(prompt),
        json.dumps(json.dumps(prompt)),
        prompt.replace("Thanks", "Thanks\x1b[2J"),
    ):
        assert quotable(f"bad {shown}", [prompt]) in (
            ": bad '…'",
            ': bad "…"',
            ': bad ""…""',
            ": bad …",
            ": bad … [2J!",
        )
    # No stretch of sixteen characters of the prompt is left, however it is broken into lines.
    shown = quotable("bad: " + prompt.replace(" ", "\n"), [prompt])
    assert not any("".join(pair) in shown for pair in pairwise(prompt.split()))
