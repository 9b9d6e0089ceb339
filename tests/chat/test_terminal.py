"""The chat on a pipe and on a terminal, in front of a server over real HTTP, and through the gateway."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from jobs.chat import JOB
from sdpo.chat.conversation import Interaction
from sdpo.chat.signal import SignalScorer
from sdpo.registry.live import Live, write_live
from sdpo.settings.resolve import resolve
from sdpo.signal.loaded_model import LoadedModel, signal_of
from sdpo.text.hindsight import HINDSIGHT
from tests.chat.talking import Terminal, chat_command, piped
from tests.commands import ROOT, clean_environment
from tests.gateway.running import gateway
from tests.gateway.upstreams import Upstream
from tests.servers import until

pytestmark = pytest.mark.slow


@pytest.fixture
def upstream():
    with Upstream() as server:
        yield server


def test_a_conversation_grows_and_every_command_does_what_it_says(upstream):
    done = piped(
        upstream.url, "hello", "and again", "//slash", "/system be brief", "once", "/system", "/new", "anew",
        "/model base-model", "other", "/model", "/help", "/quit", "never sent", flags=("--temperature", "0.5"),
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == ""
    sent = [[(message["role"], message["content"]) for message in body["messages"]] for body in upstream.bodies]
    assert sent[0] == [("user", "hello")]
    assert sent[1] == [("user", "hello"), ("assistant", "You said: hello"), ("user", "and again")]
    assert sent[2][-1] == ("user", "/slash")
    assert sent[3] == [("system", "be brief"), ("user", "once")]
    assert sent[4] == [("system", "be brief"), ("user", "anew")]
    assert [body["model"] for body in upstream.bodies] == ["sdpo"] * 5 + ["base-model"]
    assert all(body["temperature"] == 0.5 and body["stream"] is True for body in upstream.bodies)
    named = [headers["x-conversation-id"] for headers in upstream.headers if "x-conversation-id" in headers]
    assert named[0] == named[2] != named[3] != named[4] == named[5]
    assert "sdpo: You said: hello\n" in done.stdout and "base-model: You said: other" in done.stdout
    assert "system message: be brief" in done.stdout and "talking to base-model; served: base-model" in done.stdout
    assert "/rate up|down" in done.stdout and "never sent" not in done.stdout


def test_what_cannot_be_done_is_one_line_and_the_chat_goes_on(upstream):
    wrong = {
        "/comapre": "/comapre is no command. Did you mean /compare?",
        "/zzzz": "/zzzz is no command. See /help.",
        "/signal": "/signal needs a model in this process. Start the chat with MODEL=...",
        "/rate": "a rating is /rate up or /rate down",
        "/rate up": "there is no answer to rate yet",
        "/compare": "the server lists no model but base-model. Start the chat with BASE_NAME, the name by which",
        "/model base-modle": "base-modle is not served. Did you mean base-model?",
        "/signal maybe": "maybe is neither on nor off",
    }
    done = piped(upstream.url, *wrong, "still here", flags=("--served-name", "base-model"))
    lines = done.stderr.splitlines()
    assert done.returncode == 0 and len(lines) == len(wrong)
    assert all(error in line for line, error in zip(lines, wrong.values(), strict=True)), lines
    assert "You said: still here" in done.stdout and len(upstream.bodies) == 1


def test_a_server_that_is_down_refuses_or_breaks_off_is_one_line(upstream):
    down = piped("http://127.0.0.1:9/v1", "hello", "/model")
    assert down.returncode == 3 and len(down.stderr.splitlines()) == 2
    assert "nothing answers at http://127.0.0.1:9/v1. Start it (make gateway)" in down.stderr
    upstream.answer = lambda body: (503, json.dumps({"error": {"message": "I am\nloading \x1b[2J"}}).encode())
    refused = piped(upstream.url, "hello")
    assert "503, I am loading [2J" in refused.stderr and len(refused.stderr.splitlines()) == 1
    upstream.answer, upstream.break_after = (lambda body: "a long answer"), 2
    broken = piped(upstream.url, "hello", "/quit")
    assert "broke off its answer" in broken.stderr and broken.returncode == 3


def test_control_sequences_of_a_model_do_not_reach_the_terminal(upstream):
    upstream.answer = lambda body: "red \x1b[31m bell \x07 half \ud83d end"
    done = piped(upstream.url, "hello")
    assert "\x1b" not in done.stdout and "\x07" not in done.stdout and "end" in done.stdout


def test_through_the_gateway_everything_is_kept_compared_coloured_and_rated(upstream, tmp_path):
    """The real chain: chat, gateway, store; the tiny model says what the follow-up means for each token."""
    upstream.answer = lambda body: f"{body['model']} heard: {body['messages'][-1]['content']}"
    (tmp_path / "registry").mkdir()
    write_live(tmp_path / "registry", Live("v0001", "tuned"))
    with gateway(upstream.url, tmp_path) as running:
        done = piped(
            running.url, "My brother has a dog.", "/compare on", "Write it without emojis.", "/signal",
            "/rate down too long", "/compare off", "thanks", "/signal on", "bye", flags=("--tiny",),
        )  # fmt: skip
        kept = list(running.store().conversations())
    assert done.returncode == 0, done.stderr
    assert "base-model: base-model heard: Write it without emojis." in done.stdout
    assert "sdpo: tuned heard: Write it without emojis." in done.stdout
    (conversation,) = kept  # what the model before was asked is no conversation to learn from
    texts = ["My brother has a dog.", "Write it without emojis.", "thanks", "bye"]
    both = [text for said in texts for text in (said, f"tuned heard: {said}")]
    assert [message["content"] for message in conversation.messages] == both
    assert conversation.versions == ["v0001"] * 4 and "answered by v0001" in done.stdout
    assert conversation.ratings == [{"message": 3, "rating": -1, "comment": "too long"}]
    signals = [line for line in done.stdout.splitlines() if line.startswith("signal of ")]
    assert [line.split("'")[1] for line in signals] == ["Write it without emojis.", "bye"]
    line = done.stdout.splitlines()[done.stdout.splitlines().index(signals[0]) + 1]
    assert line.startswith("t") and "[+" in line and "[−" in line and "<|im_end|>" in line


def test_the_signal_is_that_of_the_projects_scorer():
    settings = resolve(JOB.settings, ["--tiny"], job="chat", tiny=JOB.tiny, environment={}, dotenv=Path("none"))
    prompt = [{"role": "user", "content": "My brother has a dog. Yesterday it licked my guitar in the garage."}]
    interaction = Interaction(prompt, "TL;DR: a dog licked my guitar. 🐾", "Hmm. Write it without emojis. Try again.")
    found = SignalScorer(settings).score(interaction)
    model = LoadedModel.load(str(settings.model))
    completion = model.completion(interaction.answer)
    contexts = [model.context(prompt), model.context(prompt, interaction.follow_up, HINDSIGHT)]
    bare, shown = model.logps(contexts, [completion, completion])
    assert found.values == pytest.approx(signal_of(shown, bare), abs=1e-5)
    assert "".join(found.tokens) == interaction.answer + "<|im_end|>"
    thought = Interaction(prompt, f"<think>hm</think>\n{interaction.answer}", interaction.follow_up)
    assert SignalScorer(settings).score(thought) == found
    assert min(found.values) == found.values[found.tokens.index(" 🐾")] < -2


# On a terminal


def test_ctrl_c_stops_an_answer_and_not_the_chat(upstream, tmp_path):
    upstream.answer, upstream.pause, upstream.size = (lambda body: "word " * 400), 0.05, 5
    with Terminal(upstream.url, home=tmp_path) as terminal:
        terminal.prompted()
        terminal.type("hello\r")
        terminal.wait_for("word word word")
        terminal.type("\x03")
        terminal.wait_for("(stopped)")
        terminal.prompted()
        upstream.answer, upstream.pause = (lambda body: "a short one"), 0.0
        mark = len(terminal.text)
        terminal.type("again\r")
        terminal.wait_for("a short one", after=mark)
        terminal.prompted()
        terminal.type("half a line\x03\x03")  # Ctrl-C on a line empties it
        terminal.type("/quit\r")
        assert terminal.ended() == 0
    sent = upstream.bodies[-1]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert sent[1]["content"].startswith("word word") and len(sent[1]["content"]) < 1500  # what was shown is kept


def test_the_arrow_keys_bring_earlier_lines_back_and_ctrl_d_leaves(upstream, tmp_path):
    with Terminal(upstream.url, home=tmp_path) as terminal:
        terminal.prompted()
        terminal.type("first line\r")
        terminal.wait_for("You said: first line")
        terminal.prompted()
        terminal.type("second line\r")
        terminal.wait_for("You said: second line")
        terminal.prompted()
        mark = len(terminal.text)
        terminal.type("\x1b[A\x1b[A\r")
        terminal.wait_for("You said: first line", after=mark)
        terminal.prompted()
        terminal.type("\x04")
        assert terminal.ended() == 0
    assert [body["messages"][-1]["content"] for body in upstream.bodies] == ["first line", "second line", "first line"]


def test_a_terminal_shows_both_answers_side_by_side(upstream, tmp_path):
    upstream.answer = lambda body: f"I am {body['model']}. 🐾"
    with Terminal(upstream.url, home=tmp_path) as terminal:
        terminal.prompted()
        terminal.type("/compare My brother has a dog.\r")
        terminal.wait_for("I am sdpo. 🐾")
        terminal.prompted()
        assert any("I am base-model. 🐾" in line and "I am sdpo. 🐾" in line for line in terminal.text.splitlines())
        terminal.type("/quit\r")
        assert terminal.ended() == 0


def test_ctrl_c_on_a_pipe_stops_the_answer_then_the_chat(upstream):
    upstream.answer, upstream.pause = (lambda body: "word " * 400), 0.05
    process = subprocess.Popen(
        chat_command(upstream.url), cwd=ROOT, env=clean_environment(), text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    process.stdin.write("hello\n")
    process.stdin.flush()
    assert until(lambda: bool(upstream.bodies), 30)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "chat: loading\n"
    assert process.stdout.readline().endswith("(stopped)\n") and process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert process.communicate()[1].strip() == "interrupted"
