"""Chats through a gateway over real HTTP: what the client gets, and what is in the store."""

import json
import os
import time
from pathlib import Path

import httpx
import openai
import pytest

from sdpo.gateway.export import row_of
from tests.gateway.running import gateway, said, streamed, text_of
from tests.gateway.upstreams import TOOL, Upstream

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]


def client_of(running, **headers: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=running.url, api_key="none", max_retries=0, default_headers=headers)


def conversation_of(running, response):
    return running.store().conversation(response.headers["x-sdpo-conversation"])


def test_an_answer_is_passed_on_and_kept_with_its_question(running, upstream):
    response = running.chat("Hello", user="ann", temperature=0.5, x_unknown=[1])
    assert upstream.bodies[-1] == {
        "model": "base-model", "messages": [{"role": "user", "content": "Hello"}], "user": "ann", "temperature": 0.5,
        "x_unknown": [1],
    }  # fmt: skip
    assert response.status_code == 200 and text_of(response) == "You said: Hello"
    assert response.headers["x-sdpo-version"] == "base"
    kept = conversation_of(running, response)
    assert (kept.user, kept.versions, kept.ratings) == ("ann", [""], [])
    assert kept.messages == [{"role": "user", "content": "Hello"}, said("You said: Hello")]
    assert abs(kept.started_at - time.time()) < 30 and kept.updated_at >= kept.started_at


def test_a_stream_is_passed_on_byte_for_byte_and_kept_as_its_message(running, upstream):
    response = running.chat("Écoute 中文", stream=True, model="mine")
    assert response.content == upstream.sent[-1]
    assert upstream.raw[-1] == response.request.content  # nothing of the request was changed
    assert response.headers["content-type"] == "text/event-stream"
    assert conversation_of(running, response).messages[-1] == said("You said: Écoute 中文")


@pytest.mark.parametrize("stream", [False, True])
def test_a_growing_history_is_one_conversation(running, stream):
    history: list = []
    for text in ("one", "two", "three"):
        history.append({"role": "user", "content": text})
        response = running.chat(*history, stream=stream, user=f"grows{stream}")
        history.append(said(streamed(response.content) if stream else text_of(response)))
    [kept] = [one for one in running.store().conversations() if one.user == f"grows{stream}"]
    assert kept.messages == history and kept.versions == ["", "", ""]


def test_an_edited_message_makes_a_branch_and_nothing_is_doubled(running):
    start = ["a", said("You said: a"), "b", said("You said: b")]
    for messages in (start[:1], start[:3], [*start, "c"], [*start[:2], "B"], [*start[:2], "b"]):
        running.chat(*messages, user="edits")
    kept = [one for one in running.store().conversations() if one.user == "edits"]
    said_in = [[message["content"].removeprefix("You said: ") for message in one.messages[::2]] for one in kept]
    assert said_in == [["a", "b"], ["a", "B"], ["a", "b", "c"]]
    assert [one.id.partition("~")[2] for one in kept] == ["", "2", "3"]


@pytest.mark.parametrize("sent", ["Jörg 中".encode(), "Jörg".encode("latin-1")])
def test_a_user_is_recognised_in_whichever_encoding_a_header_is_sent(running, sent):
    response = running.chat("Hello", headers=[(b"x-user-id", sent)])
    assert response.status_code == 200
    users = {one.user for one in running.store().conversations()}
    assert ("Jörg 中" if sent.startswith("Jö".encode()) else "Jörg") in users


def test_a_conversation_named_by_a_header_is_one_whatever_its_messages_are(running):
    for header in ("x-conversation-id", "X-OpenWebUI-Chat-Id"):
        for text in ("first", "second"):
            response = running.chat(text, headers={header: f"chat/{header}"})
            assert response.headers["x-sdpo-conversation"] == f"chat_{header}"
        names = {one.id.partition("~")[0] for one in running.store().conversations() if one.id.startswith("chat_")}
        assert f"chat_{header}" in names


def test_the_official_client_works_with_tools_and_streams(running):
    client = client_of(running)
    messages = [{"role": "user", "content": "Weather?"}]
    answer = client.chat.completions.create(model="sdpo", messages=messages, tools=TOOLS, user="tools")
    assert answer.choices[0].message.tool_calls[0].function.name == "weather"
    question = [{"role": "user", "content": "Weather now?"}]
    chunks = client.chat.completions.create(model="sdpo", messages=question, tools=TOOLS, stream=True, user="tools")
    calls = [chunk.choices[0].delta.tool_calls for chunk in chunks]
    assert "".join(call[0].function.arguments for call in calls if call) == TOOL["function"]["arguments"]
    result = {"role": "tool", "tool_call_id": "call_1", "content": "rain"}
    whole = [*messages, answer.choices[0].message.model_dump(exclude_none=True), result]
    raw = client.chat.completions.with_raw_response.create(model="sdpo", messages=whole, user="tools")
    assert raw.parse().choices[0].message.content == "You said: rain"
    kept = [one for one in running.store().conversations() if one.user == "tools"]
    assert sorted(len(one.messages) for one in kept) == [2, 4]
    for one in kept:
        assert one.messages[1]["tool_calls"][0]["function"] == TOOL["function"]
    assert [message["role"] for message in max(kept, key=lambda one: len(one.messages)).messages] == [
        "user", "assistant", "tool", "assistant",
    ]  # fmt: skip
    assert {model.id for model in client.models.list()} == {"sdpo", "base-model"}


def test_upstream_errors_are_passed_on_as_they_are(running, upstream):
    body = json.dumps({"error": {"message": "too long", "code": "context_length_exceeded"}}).encode()
    before = running.store().exchange_count()
    for stream in (False, True):
        upstream.answer = lambda _: (
            429,
            body,
            {"Retry-After": "7", "Connection": "X-Mine", "X-Mine": "1", "X-Far": "2"},
        )
        response = running.chat("Hello", stream=stream)
        assert (response.status_code, response.content) == (429, body)
        assert response.headers["retry-after"] == "7" and response.headers["x-far"] == "2"
        assert "x-mine" not in response.headers
    with pytest.raises(openai.RateLimitError, match="too long"):
        client_of(running).chat.completions.create(model="sdpo", messages=[{"role": "user", "content": "Hello"}])
    for content in (b"no json", b"[]", b'{"messages": 3}'):
        upstream.answer = lambda _: (400, b'{"error": "of mine"}')
        try:
            response = httpx.post(f"{running.url}/chat/completions", content=content)
        except httpx.HTTPError:
            continue
        assert response.status_code in (400, 502)
    assert running.store().exchange_count() == before


def test_other_paths_pass_through_untouched_except_those_for_the_operator(running, upstream):
    response = httpx.post(f"{running.url}/embeddings?a=%20b", content=b"\x00 any", headers={"content-type": "x/y"})
    assert response.json() == {"path": "/v1/embeddings?a=%20b", "method": "POST", "body": "\x00 any"}
    assert upstream.headers[-1]["content-type"] == "x/y"
    for method, path in (("DELETE", "/v1/files/f%2Fx"), ("GET", "/version"), ("POST", "/v1/completions")):
        assert httpx.request(method, running.root + path).json()["path"] == path
    lora = [("POST", f"{path}load_lora_adapter") for path in ("/v1/", "/v1/%75n", "//v1//")]
    for method, path in (*lora, ("POST", "/adapters"), ("DELETE", "/adapters/x"), ("DELETE", "//%61dapters/x")):
        assert httpx.request(method, running.root + path, content=b"{}").status_code == 403


def test_a_cookie_that_the_upstream_gives_to_one_client_comes_with_no_others_request(running, upstream):
    upstream.cookie = "session=alice"
    assert httpx.post(f"{running.url}/embeddings", content=b"{}").headers["set-cookie"] == "session=alice"
    for _ in range(3):
        assert running.chat("Hello").status_code == 200
    assert not any("cookie" in headers for headers in upstream.headers)


def test_a_chat_is_kept_however_its_path_is_written_and_whatever_it_holds(running, upstream):
    upstream.answer = lambda _: "I see."
    before = running.store().exchange_count()
    body = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:abc"}}, "x"]}]}
    odd = body | {"user": "\ud800u\x00", "model": "\ud800\x00", "temperature": 1e400}
    for path, given in (("/v1/chat/completions/", body), ("/chat/completions", body), ("//v1/./chat/completions", odd)):
        response = httpx.post(running.root + path, content=json.dumps(given))
        assert response.status_code in (200, 404), response.text
    assert running.chat("x" * 100_000, user="long" * 200).status_code == 200
    deep: list = []
    for _ in range(600):
        deep = [deep]
    assert httpx.post(f"{running.url}/chat/completions", json={"messages": [{"content": deep}]}).status_code in (
        200,
        400,
    )
    assert running.store().exchange_count() >= before + 2
    kept = list(running.store().conversations())
    assert "data:abc" not in str(kept) and "u" in {one.user for one in kept}


def test_the_upstream_gets_no_key_of_a_client_and_no_header_about_it(upstream, tmp_path):
    with gateway(upstream.url, tmp_path, UPSTREAM_API_KEY="upstream-key") as running:
        headers = {
            "Authorization": "Bearer client-key", "X-Api-Key": "client-key", "Cookie": "client-key", "X-Far": "1",
            "X-OpenWebUI-User-Email": "client-key", "Connection": "X-Mine", "X-Mine": "client-key",
        }  # fmt: skip
        running.chat("Hello", headers=headers)
        httpx.get(f"{running.url}/other", headers=headers)
        for seen in upstream.headers[-2:]:
            assert seen["authorization"] == "Bearer upstream-key" and seen["x-far"] == "1"
            assert "client-key" not in str(seen)


def test_a_dead_or_silent_upstream_is_said_in_the_form_of_the_interface(tmp_path):
    with Upstream() as server:
        url = server.url
    with gateway(url, tmp_path) as running:
        response = running.chat("Hello")
        assert response.status_code == 502 and response.json()["error"]["code"] == "upstream_unreachable"
        assert httpx.get(f"{running.root}/health").status_code == 503
        assert httpx.get(f"{running.url}/models").status_code == 502
        with pytest.raises(openai.APIStatusError, match="cannot be reached"):
            client_of(running).chat.completions.create(model="sdpo", messages=[{"role": "user", "content": "Hello"}])
    with Upstream() as server, gateway(server.url, tmp_path, UPSTREAM_TIMEOUT="0.3") as running:
        server.delay = 5
        for stream in (False, True):
            response = running.chat("Hello", model="mine", stream=stream)
            assert response.status_code == 504 and response.json()["error"]["code"] == "upstream_timeout"
        server.delay, server.pause = 0, 5
        chunks = client_of(running).chat.completions.create(
            model="mine", messages=[{"role": "user", "content": "Hello"}], stream=True
        )
        with pytest.raises(openai.APIError, match="silent for"):
            list(chunks)
        assert running.store().exchange_count() in (0, 1)


def test_an_answer_that_the_upstream_breaks_off_is_kept_as_far_as_it_came(running, upstream):
    upstream.answer, upstream.break_after = lambda _: "one two three four five", 5
    chunks = client_of(running).chat.completions.create(
        model="sdpo", messages=[{"role": "user", "content": "Hello"}], stream=True, user="broken"
    )
    got = ""
    with pytest.raises(openai.APIError, match="broke its answer off"):
        for chunk in chunks:
            got += chunk.choices[0].delta.content or ""
    [kept] = [one for one in running.store().conversations() if one.user == "broken"]
    assert kept.messages[-1] == said(got) and "one two three".startswith(got) and got
    assert row_of(kept)["messages"][-1] == {**said(got), "finished": False}


def test_a_client_that_disconnects_leaves_what_it_got_and_stops_the_upstream(running, upstream):
    upstream.answer, upstream.pause = lambda _: "word " * 400, 0.01
    got = b""
    request = {"model": "sdpo", "messages": [{"role": "user", "content": "Hello"}], "stream": True, "user": "leaves"}
    with httpx.stream("POST", f"{running.url}/chat/completions", json=request) as response:
        for block in response.iter_raw():
            got += block
            if len(got) > 2000:
                break
    kept = None
    for _ in range(100):
        kept = running.store().conversation(response.headers["x-sdpo-conversation"])
        metrics = httpx.get(f"{running.root}/metrics").text
        if 'state="broken off"' in metrics and "in_flight 0" in metrics:
            break
        time.sleep(0.05)
    assert kept is not None and kept.messages[-1]["content"].startswith(streamed(got)) and streamed(got)
    assert len(kept.messages[-1]["content"]) < 1000
    assert not upstream.sent, "the upstream went on"


def test_what_is_private_is_not_in_the_store_but_goes_upstream(running, upstream, tmp_path):
    secret, mail = "sk-ant-" + "a1B2" * 8, "anna@example.com"
    upstream.answer = lambda body: f"I wrote to {mail} with {secret}." + " And so on." * 40
    first = running.chat({"role": "system", "content": f"I am {mail}"}, f"Mail {mail}", user="private", stream=True)
    assert mail in streamed(first.content) and mail in str(upstream.bodies[-1])
    history = [
        {"role": "system", "content": "x"},
        f"Mail {mail}",
        said(streamed(first.content)),
        f"And {mail}, {secret}?",
    ]
    assert secret in text_of(running.chat(*history, user="private"))
    [kept] = [one for one in running.store().conversations() if one.user == "private"]
    assert len(kept.messages) == 5
    assert [message["content"][:30] for message in kept.messages[:2]] == ["I am [EMAIL_1]", "Mail [EMAIL_1]"]
    assert kept.messages[2]["content"].startswith("I wrote to [EMAIL_1] with [KEY_1].")
    assert kept.messages[3]["content"] == "And [EMAIL_1], [KEY_1]?"
    rating = {"exchange": first.headers["x-sdpo-exchange"], "rating": 1, "comment": f"mail {mail}"}
    assert httpx.post(f"{running.url}/feedback", json=rating).status_code == 200
    folder = os.path.dirname(running.store_url.removeprefix("sqlite:///"))
    for name in os.listdir(folder):
        if name.startswith("store"):
            content = Path(folder, name).read_bytes()
            assert mail.encode() not in content and secret.encode() not in content, name
