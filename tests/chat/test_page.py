"""The chat's page in a browser, in front of the gateway, and its server's refusals."""

import json
import re
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import pytest

from sdpo.registry.live import Live, write_live
from tests.browser import Page, needs_browser
from tests.commands import ROOT, clean_environment
from tests.gateway.running import gateway
from tests.gateway.upstreams import Upstream

pytestmark = pytest.mark.slow

EVIL = "<script>document.title = 'evil'</script><img src=x onerror=\"document.title = 'evil'\">"

READY = "!document.getElementById('send').disabled"


@contextmanager
def chat_page(url: str, *flags: str):
    """Yield the address of a chat's page in front of this server."""
    command = [sys.executable, "-m", "jobs.chat", "--page", "1", "--page-port", "0", "--gateway-url", url, *flags]
    process = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, text=True)
    try:
        lines = iter(process.stdout.readline, "")
        yield next(found[1] for line in lines if (found := re.search(r"chat: (http://127\.0\.0\.1:\d+/)", line)))
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """Return the upstream, the gateway and the page in front of it, with the tiny model for the signal."""
    folder = tmp_path_factory.mktemp("chain")
    (folder / "registry").mkdir()
    write_live(folder / "registry", Live("v0001", "tuned"))
    with (
        Upstream() as upstream,
        gateway(upstream.url, folder) as running,
        chat_page(running.url, "--tiny") as page,
    ):
        yield upstream, running, page


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_chat_by_keyboard_alone_with_everything_it_can_do(chain, width, tmp_path):
    upstream, running, address = chain
    upstream.answer = lambda body: f"{body['model']} a dog 🐾 {EVIL}"
    before = {found.id for found in running.store().conversations()}
    with Page(address, width, folder=tmp_path) as page:
        assert page.ask("document.activeElement.id") == "message"
        say(page, f"My brother has a dog. {EVIL} {'x' * 500}")
        page.wait_for(
            "document.querySelectorAll('.turn.assistant').length === 1 && !document.getElementById('send').disabled"
        )
        tab_to(page, "compare")
        page.press(" ")
        tab_to(page, "message")
        say(page, "Write it without emojis.")
        page.wait_for(
            "document.querySelectorAll('.pair .turn').length === 2 && !document.getElementById('send').disabled"
        )
        names = page.ask("[...document.querySelectorAll('.pair .turn b')].map(each => each.textContent)")
        assert names == ["the model before", "sdpo (v0001)"]
        left, right = page.ask("[...document.querySelectorAll('.pair > div')].map(e => e.getBoundingClientRect().left)")
        assert (right > left) == (width > 700)
        tab_to(page, "signal")
        page.press("Enter")
        page.wait_for("document.querySelectorAll('.t').length > 5")
        assert page.ask("[...document.querySelectorAll('.t')].map(each => each.textContent).join('')").startswith(
            "tuned a dog"
        )
        assert page.ask("document.querySelectorAll('.t.less').length") > 0
        assert page.ask("getComputedStyle(document.querySelector('.t.less')).backgroundColor") != "rgba(0, 0, 0, 0)"
        tab_to(page, "down")
        page.press("Enter")
        page.wait_for("document.getElementById('log').textContent.includes('rated: thank you')")
        assert page.ask("document.documentElement.scrollWidth") <= width
        assert page.ask("document.title") == "Chat" and page.ask("document.querySelectorAll('img').length") == 0
        assert page.ask("document.getElementById('log').textContent.includes('<script>document.title')")
        assert page.errors() == []
    (kept,) = [one for one in running.store().conversations() if one.id not in before]
    assert [message["role"] for message in kept.messages] == ["user", "assistant", "user", "assistant"]
    assert EVIL in kept.messages[0]["content"] and kept.ratings == [{"message": 3, "rating": -1, "comment": None}]


@needs_browser
def test_an_answer_comes_in_parts_and_escape_stops_it(chain, tmp_path):
    upstream, _, address = chain
    upstream.answer, upstream.pause = (lambda body: "word " * 300), 0.05
    try:
        with Page(address, 1280, folder=tmp_path) as page:
            say(page, "talk")
            page.wait_for("document.querySelector('.turn.assistant span').textContent.length > 20")
            first = page.ask("document.querySelector('.turn.assistant span').textContent.length")
            page.wait_for(f"document.querySelector('.turn.assistant span').textContent.length > {first + 20}")
            page.press("Escape")
            page.wait_for("document.querySelector('.turn.assistant i') && " + READY)
            upstream.pause = 0.0
            upstream.answer = lambda body: "short"
            say(page, "again")
            page.wait_for("document.querySelectorAll('.turn.assistant').length === 2")
            page.wait_for("document.querySelectorAll('.turn.assistant')[1].textContent.includes('short')")
        roles = [message["role"] for message in upstream.bodies[-1]["messages"]]
        assert roles == ["user", "assistant", "user"]
    finally:
        upstream.pause = 0.0


@needs_browser
def test_new_during_an_answer_begins_a_chat_without_it(chain, tmp_path):
    upstream, _, address = chain
    upstream.answer, upstream.pause = (lambda body: "word " * 300), 0.05
    try:
        with Page(address, 1280, folder=tmp_path) as page:
            say(page, "talk of yesterday")
            page.wait_for("document.querySelector('.turn.assistant span').textContent.length > 20")
            page.ask("document.getElementById('new').click()")
            page.wait_for(READY)
            upstream.pause = 0.0
            upstream.answer = lambda body: "short"
            say(page, "fresh")
            page.wait_for("document.getElementById('log').textContent.includes('short')")
            assert page.errors() == []
        assert [message["content"] for message in upstream.bodies[-1]["messages"]] == ["fresh"]
    finally:
        upstream.pause = 0.0


@needs_browser
def test_a_server_that_is_down_is_said_on_the_page_and_the_message_is_kept(tmp_path):
    with chat_page("http://127.0.0.1:9/v1") as address, Page(address, 390, folder=tmp_path) as page:
        assert page.ask("document.getElementById('signal').disabled")
        say(page, "hello")
        page.wait_for("document.querySelector('.problem.note') !== null")
        assert "nothing answers at http://127.0.0.1:9/v1" in page.ask(
            "document.querySelector('.problem.note').textContent"
        )
        assert page.ask("document.getElementById('message').value") == "hello"
        assert page.errors() == []


def test_the_pages_server_answers_its_own_page_alone(chain):
    upstream, _, address = chain
    page = httpx.get(address)
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
    token = json.loads(re.search(r'id="chat-data">(.*?)</script>', page.text)[1])["token"]
    sent, body = len(upstream.bodies), {"messages": [{"role": "user", "content": "x"}], "model": "sdpo"}
    for headers in ({}, {"x-chat-token": "wrong"}, {"x-chat-token": "ü".encode("latin-1")}):
        assert httpx.post(f"{address}answer", json=body, headers=headers).status_code == 400
    assert httpx.get(address, headers={"host": "evil.example"}).status_code == 400  # another name for this address
    own = {"x-chat-token": token}
    for path, wrong in [
        ("answer", {"messages": []}), ("answer", {"messages": [{"role": "root", "content": "x"}]}), ("answer", []),
        ("signal", {"prompt": [], "answer": "x", "follow_up": "y"}), ("rate", {"rating": 5, "message": 1}),
    ]:  # fmt: skip
        answer = httpx.post(f"{address}{path}", json=wrong, headers=own)
        assert answer.status_code == 400 and answer.json()["error"]
    assert httpx.post(f"{address}answer", content=b"{", headers=own).status_code == 400
    assert len(upstream.bodies) == sent
    lines = httpx.post(f"{address}answer", json=body, headers=own).text.splitlines()
    assert json.loads(lines[-1])["done"]["exchange"] and len(upstream.bodies) == sent + 1


def test_a_port_that_is_taken_is_one_line(chain):
    port = re.search(r":(\d+)/", chain[2])[1]
    command = [sys.executable, "-m", "jobs.chat", "--page", "1", "--page-port", port]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and f"PAGE_PORT={port} cannot be used" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def say(page: Page, text: str) -> None:
    """Write a message where the focus is, and send it."""
    if page.ask("document.activeElement.id") != "message":
        tab_to(page, "message")
    page.write(text)
    page.press("Enter")


def tab_to(page: Page, identifier: str) -> None:
    """Go to a control with the Tab key."""
    for _ in range(30):
        if page.ask("document.activeElement.id") == identifier:
            return
        page.press("Tab")
        time.sleep(0.01)
    raise AssertionError(f"Tab does not reach {identifier}")
