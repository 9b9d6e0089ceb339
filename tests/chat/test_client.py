"""The parts of the chat without a terminal: the client on many forms of streams, commands, screens, conversations."""

import asyncio
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sdpo.chat import commands
from sdpo.chat.client import Answer, ChatClient
from sdpo.chat.conversation import Conversation
from sdpo.chat.screens import PlainScreen, RichScreen, printable
from sdpo.chat.session import ChatSession, options_of
from sdpo.chat.signal import Signal
from sdpo.errors import SdpoError, ServerError, SettingError
from sdpo.settings import ChatSettings
from sdpo.settings.resolve import resolve
from tests.servers import Answer as Scripted
from tests.servers import FakeServer

STREAM = {"Content-Type": "text/event-stream; charset=utf-8"}


def event(content=None, reason=None, **more) -> str:
    delta = {} if content is None else {"content": content}
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta, 'finish_reason': reason, **more}]})}\n\n"


def answered(answer: Scripted, key: str | None = None, **options) -> tuple[Answer, list[str], FakeServer]:
    """Return the answer, its parts and the server after one request."""

    async def ask(url: str) -> tuple[Answer, list[str]]:
        found, messages = Answer(), [{"role": "user", "content": "hi"}]
        async with ChatClient(url, key, 1.0, options) as client:
            return found, [part async for part in client.answer("m", messages, "chat-1", found)]

    with FakeServer(lambda body, number: answer) as server:
        return (*asyncio.run(ask(server.url)), server)


def test_a_stream_is_read_part_by_part_with_what_the_gateway_says_of_it():
    headers = STREAM | {"x-sdpo-version": "v0003", "x-sdpo-exchange": "x-9", "x-sdpo-conversation": "c-1"}
    raw = f": a comment\n\n{event('')}{event('Hé')}{event('llo 🐾')}{event(None, 'stop')}data: [DONE]\n\n"
    found, parts, server = answered(Scripted(raw=raw.encode(), headers=headers), temperature=0.5)
    assert parts == ["Hé", "llo 🐾"] and found.text == "Héllo 🐾" and found.finished
    assert (found.version, found.exchange, found.conversation, found.model) == ("v0003", "x-9", "c-1", "m")
    assert server.bodies[0]["stream"] is True and server.bodies[0]["temperature"] == 0.5
    assert {name.lower(): value for name, value in server.headers[0].items()}["x-conversation-id"] == "chat-1"


@pytest.mark.parametrize(
    ("raw", "text", "finished"),
    [
        (event("a") + event(None, "length") + "data: [DONE]\n\n", "a", False),
        (event("a", "stop"), "a", True),  # without [DONE]
        (event("a\u2028b\u0085c", "stop").encode("ascii").decode("unicode-escape"), "a\u2028b\u0085c", True),
        (event([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "stop"), "ab", True),
        (event("a").replace("\n", "\r\n") + event("b", "stop"), "ab", True),
        (event("a", "stop") + 'data: {"choices": [], "usage": {"total_tokens": 3}}\n\ndata: [DONE]\n\n', "a", True),
        ('data:{"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n' + event("a", "stop"), "a", True),
    ],
)
def test_streams_of_many_servers_are_read(raw, text, finished):
    found, _, _ = answered(Scripted(raw=raw.encode(), headers=STREAM))
    assert (found.text, found.finished) == (text, finished)
    assert ("maximum length" in found.cut_off) == (not finished)


def test_an_answer_that_is_not_streamed_is_read_too():
    found, parts, _ = answered(Scripted("whole"))
    assert parts == ["whole"] and found.finished


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Scripted(raw=event("a").encode(), headers=STREAM), "broke off its answer"),
        (Scripted(raw=b"data: {half\n\n", headers=STREAM), "no chat completion"),
        (Scripted(raw=b"data: [1]\n\n", headers=STREAM), "no chat completion"),
        (Scripted(raw=b'data: {"error": {"message": "out of\\nmemory"}}\n\n', headers=STREAM), "error: out of memory"),
        (Scripted(raw=b"<html>"), "no chat completion"),
        (Scripted(raw=b'{"choices": []}'), "no chat completion"),
        (Scripted("no such model", status=404), "404, no such model. Check GATEWAY_URL and the model."),
        (Scripted("wrong key", status=401), "401, wrong key. Set GATEWAY_API_KEY."),
        (Scripted(reset=True), "broke off its answer"),
        (Scripted(hang=True), "sent nothing for 1 s"),
    ],
)
def test_what_is_no_answer_is_an_error_of_one_line(answer, words):
    with pytest.raises(ServerError) as raised:
        answered(answer)
    text = str(raised.value)
    assert words in text and "\n" not in text and text.startswith("http://127.0.0.1:")


def test_a_key_is_sent_and_never_shown_and_one_that_no_server_has_is_refused():
    found, _, server = answered(Scripted("fine"), key="sk-secret")
    assert found.text == "fine"
    assert {name.lower(): value for name, value in server.headers[0].items()}["authorization"] == "Bearer sk-secret"
    with pytest.raises(ServerError) as raised:
        answered(Scripted("no", status=403), key="sk-secret")
    assert "sk-secret" not in str(raised.value)
    with pytest.raises(SettingError, match="GATEWAY_API_KEY contains"):
        answered(Scripted("fine"), key="sk-sécret")


def test_an_address_without_a_version_gets_one_and_its_password_is_not_shown():
    async def models(url: str) -> tuple[list[str], str]:
        async with ChatClient(url) as client:
            return await client.models(), client.shown

    gets = {"/v1/models": Scripted(raw=b'{"data": [{"id": "a"}, {"id": "b"}, 3]}')}
    with FakeServer(gets=gets) as server:
        assert asyncio.run(models(server.root.replace("//", "//me:secret@"))) == (["a", "b"], server.root)


# Commands


def test_every_command_is_read_and_a_message_is_none():
    for name in commands.COMMANDS:
        assert commands.parse(f"/{name.upper()}  an argument ") == commands.Command(name, "an argument")
        assert f"/{name}" in commands.help_text()
    assert commands.parse("hello /help") is None and commands.parse("//help") is None
    assert commands.message_of("//help") == "/help" and commands.message_of("help") == "help"


@given(st.text())
def test_any_line_is_a_command_a_message_or_an_error_of_one_line(text):
    line = text.strip()
    try:
        command = commands.parse(line)
    except SdpoError as error:
        assert line.startswith("/") and str(error)
    else:
        assert (command is None) or command.name in commands.COMMANDS


# Conversations


def test_the_last_interaction_is_the_last_answer_that_has_a_follow_up():
    conversation = Conversation("be brief")
    assert conversation.last_interaction is None and conversation.last_answer is None
    conversation.ask("x")
    assert conversation.last_interaction is None
    conversation.add(Answer("y", reason="length"))
    assert conversation.last_answer[0] == 2 and conversation.last_interaction is None
    conversation.ask("o")
    found = conversation.last_interaction
    assert (found.answer, found.follow_up, found.finished) == ("y", "o", False)
    system = {"role": "system", "content": "be brief"}
    assert found.prompt == [system, {"role": "user", "content": "x"}]
    conversation.add(Answer("y2", reason="stop"))
    assert conversation.last_interaction == found and conversation.last_answer[0] == 4
    conversation.ask("o2")
    assert conversation.last_interaction.answer == "y2" and len(conversation.last_interaction.prompt) == 4
    conversation.take_back()
    assert conversation.last_interaction == found


# Screens


@given(st.text())
def test_no_text_reaches_the_terminal_as_a_command(text):
    shown = printable(text)
    assert not set(shown) & {chr(code) for code in [*range(9), *range(11, 32), 127, *range(128, 160)]}
    assert not any(0x202A <= ord(char) <= 0x202E or 0x2066 <= ord(char) <= 0x2069 for char in shown)
    assert printable(shown) == shown


def test_texts_of_people_stay_as_they_are():
    for text in ("a\tb\nc", "👨‍👩‍👧 ❤️ 🏳️‍🌈", "می‌خواهم", "naïve 漢字 \u00a0 «x»"):
        assert printable(text) == text
    assert printable("a\r\nb") == "a\nb" and printable("\x1b[2J\u202e") == "�[2J�"


def test_a_plain_screen_shows_the_signal_of_each_token_that_changed():
    out = io.StringIO()
    screen = PlainScreen(out)
    screen.signal(Signal(["a", " dog", "\n", ""], [0.5, -0.25, 0.001, 0.0], 0.5), "no dogs\nplease")
    assert out.getvalue().splitlines() == [
        "signal of 'no dogs please', mean |signal| 0.188 nats:",
        "a[+0.50] dog[−0.25]⏎…",
    ]


class Recorder:
    """A screen that keeps what it is shown."""

    def __init__(self) -> None:
        self.said, self.errors, self.parts, self.names, self.stopped = [], [], {}, [], []

    def say(self, text: str) -> None:
        self.said.append(text)

    def error(self, text: str) -> None:
        self.errors.append(text)

    def begin(self, names: list[str]) -> None:
        self.names, self.parts = names, dict.fromkeys(range(len(names)), "")

    def part(self, index: int, text: str) -> None:
        self.parts[index] += text

    def end(self, stopped: bool = False) -> None:
        self.stopped.append(stopped)

    def signal(self, signal: Signal, follow_up: str) -> None:
        self.said.append(follow_up)


def test_settings_of_the_chat_template_go_with_every_request():
    flags = ["--template-settings", "enable_thinking=false tone=calm", "--temperature", "0.5"]
    settings = resolve(ChatSettings, flags, job="chat", environment={}, dotenv=Path("none"))
    sent = options_of(settings)
    assert sent == {"temperature": 0.5, "chat_template_kwargs": {"enable_thinking": False, "tone": "calm"}}

    async def ask(url: str) -> None:
        async with ChatClient(url, options=sent) as client:
            assert [text async for text in client.answer("sdpo", [{"role": "user", "content": "hi"}], "c")]

    with FakeServer() as server:
        asyncio.run(ask(server.url))
    assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False, "tone": "calm"}


def test_one_model_that_fails_does_not_stop_the_other_and_is_said_once():
    def script(body: dict, number: int) -> Scripted:
        return Scripted("I am live") if body["model"] == "sdpo" else Scripted("out of memory", status=500)

    async def chat(url: str) -> ChatSession:
        settings = resolve(ChatSettings, ["--base-name", "base"], job="chat", environment={}, dotenv=Path("none"))
        async with ChatClient(url) as client:
            session = ChatSession(client, settings, Recorder())
            for line in ("/compare on", "hello", "/compare off", "again"):
                assert await session.line(line)
            assert not await session.line("/quit")
            return session

    with FakeServer(script) as server:
        session = asyncio.run(chat(server.url))
    screen = session.screen
    assert [error.partition(": ")[2] for error in screen.errors] == ["500, out of memory."]
    assert screen.parts == {0: "I am live"} and screen.stopped == [False, False]
    assert [turn["content"] for turn in session.conversation.turns] == ["hello", "I am live", "again", "I am live"]
    assert [len(body["messages"]) for body in server.bodies] == [1, 1, 3]


def test_a_message_without_an_answer_is_no_turn():
    async def chat(url: str) -> ChatSession:
        settings = resolve(ChatSettings, [], job="chat", environment={}, dotenv=Path("none"))
        async with ChatClient(url) as client:
            session = ChatSession(client, settings, Recorder())
            for line in ("hello", "hello again"):
                await session.line(line)
            return session

    with FakeServer(lambda body, number: Scripted("" if number else "busy", status=200 if number else 503)) as server:
        session = asyncio.run(chat(server.url))
    assert session.conversation.turns == [] and len(session.screen.errors) == 1
    assert [len(body["messages"]) for body in server.bodies] == [1, 1]


def test_a_plain_screen_shows_an_answer_from_its_first_word():
    out = io.StringIO()
    screen = PlainScreen(out)
    screen.begin(["m"])
    for part in ("\n", " \n", "Hello", "\n\n", "you"):
        screen.part(0, part)
    screen.end()
    assert out.getvalue() == "m: Hello\n\nyou\n"


def test_a_terminal_shows_every_token_on_the_colour_of_its_signal():
    out = io.StringIO()
    screen = RichScreen(Console(file=out, force_terminal=True, color_system="truecolor", width=100))
    screen.signal(Signal(["a", " [b]dog[/b]", " \x1b[2J"], [0.5, -0.5, 0.0], 0.5), "no dogs")
    screen.error("one\nline")
    text = out.getvalue()
    assert "48;2;33;102;172" in text and "48;2;178;24;43" in text and "48;2;247;247;247" in text  # the ends, the middle
    assert re.search(r"\x1b\[[\d;]*\b53;[\d;]*ma\x1b", text)  # overlined: more likely
    assert re.search(r"\x1b\[4;[\d;]*m \[b\]dog\[/b\]\x1b", text)  # underlined: less likely; no markup is read
    assert "[2J" in text and "\x1b[2J" not in text and "error: one line" in text
