"""Many clients at once, gateways that are killed, and two gateways that share a PostgreSQL database."""

import asyncio
import json
import os
import random
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from tests.gateway.running import POSTGRES, Gateway, gateway, said, streamed
from tests.gateway.upstreams import Upstream

# Kills of a gateway in one test run; more by hand: SDPO_TEST_KILLS=200.
KILLS = int(os.environ.get("SDPO_TEST_KILLS", "4"))


def echo(body: dict) -> str:
    return f"Answer to {body['messages'][-1]['content']} for {body.get('user')}."


class Chat:
    """One conversation of a client: what it said and what it got, message by message."""

    def __init__(self, user: str, name: str, stream: bool, header: bool) -> None:
        self.user, self.name, self.stream = user, name, stream
        self.headers = {"x-conversation-id": name} if header else {}
        self.messages: list[dict] = []
        self.error = ""

    async def say(self, client: httpx.AsyncClient, url: str, text: str) -> int:
        """Send a message, add it and the answer, and return the status. A broken answer is what came of it."""
        question = {"role": "user", "content": text}
        body = {"model": "sdpo", "messages": [*self.messages, question], "user": self.user, "stream": self.stream}
        got = b""
        try:
            async with client.stream("POST", f"{url}/chat/completions", json=body, headers=self.headers) as response:
                async for block in response.aiter_raw():
                    got += block
            if response.status_code != 200:
                return response.status_code
            answer = streamed(got) if self.stream else json.loads(got)["choices"][0]["message"]["content"]
            status = 200
        except httpx.HTTPError as error:
            self.error = repr(error)
            answer, status = streamed(got), 0
        if answer:
            self.messages += [question, said(answer)]
        return status


async def talk(urls: list[str], chats: list[Chat], turns: int, at_once: int) -> Counter[int]:
    """Let all clients have their conversations, each one message after another, and count the statuses."""
    statuses: Counter[int] = Counter()
    gate = asyncio.Semaphore(at_once)
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:

        async def one(number: int, chat: Chat) -> None:
            async with gate:
                for turn in range(turns):
                    statuses[await chat.say(client, urls[(number + turn) % len(urls)], f"{chat.name}, {turn}")] += 1

        await asyncio.gather(*(one(number, chat) for number, chat in enumerate(chats)))
    return statuses


def chats_of(count: int) -> list[Chat]:
    return [Chat("ann" if at % 3 else "bob", f"chat-{at}", at % 2 == 0, at % 4 < 2) for at in range(count)]


def check_kept(store, chats: list[Chat]) -> None:
    """Check that each conversation is in the store exactly once, as its client saw it."""
    kept = sorted((one.user, json.dumps(one.messages)) for one in store.conversations())
    assert kept == sorted((chat.user, json.dumps(chat.messages)) for chat in chats)


@pytest.mark.slow
def test_64_clients_of_two_users_lose_nothing_and_double_nothing(store_url, tmp_path):
    """In SQLite through one gateway, in PostgreSQL through two that take turns in each conversation."""
    chats = chats_of(192)
    with Upstream(echo) as upstream, ExitStack() as stack:
        upstream.size = 12
        count = 2 if store_url.startswith("postgresql") else 1
        running = [stack.enter_context(gateway(upstream.url, tmp_path, store_url)) for _ in range(count)]
        statuses = asyncio.run(talk([one.url for one in running], chats, 3, 64))
        assert statuses == {200: 3 * len(chats)}, {chat.error for chat in chats}
        check_kept(running[0].store(), chats)


@pytest.mark.slow
def test_256_clients_at_once_get_no_error_of_the_gateway_and_memory_stays_flat(tmp_path):
    with Upstream(echo) as upstream, gateway(upstream.url, tmp_path) as running:
        upstream.size, upstream.pause = 20, 0.03
        process = psutil.Process(running.process.pid)
        memory = []
        for _ in range(3):
            chats = [Chat("ann", f"c{random.random()}", at % 2 == 0, True) for at in range(256)]
            assert asyncio.run(talk([running.url], chats, 1, 256)) == {200: 256}
            memory.append(process.memory_info().rss)
        assert memory[2] - memory[1] < 2**24
        assert running.store().exchange_count() == 3 * 256


def test_more_requests_than_allowed_are_refused_with_a_time_to_wait(tmp_path):
    with Upstream(echo) as upstream, gateway(upstream.url, tmp_path, MAX_IN_FLIGHT="4") as running:
        upstream.delay = 0.5
        chats = [Chat("ann", f"c{at}", False, True) for at in range(12)]
        statuses = asyncio.run(talk([running.url], chats, 1, 12))
        assert statuses[200] >= 4 and statuses[429] >= 1 and set(statuses) == {200, 429}
        assert running.store().exchange_count() == statuses[200]


async def _until_killed(running: Gateway, chats: list[Chat], answers: int, seconds: float) -> None:
    """Let the clients talk, and kill the gateway so long after so many answers."""

    async def kill() -> None:
        while sum(len(chat.messages) for chat in chats) < 2 * answers:
            assert running.process.poll() is None, "the gateway ended by itself"
            await asyncio.sleep(0.005)
        await asyncio.sleep(seconds)
        running.kill()

    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=64), timeout=20) as client:

        async def one(chat: Chat) -> None:
            for turn in range(50):
                if await chat.say(client, running.url, f"{chat.name}, {turn}") != 200:
                    return

        await asyncio.gather(kill(), *map(one, chats))


@pytest.mark.slow
def test_what_a_client_received_of_a_killed_gateway_is_in_the_store(store_url, tmp_path):
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    print("seed", seed)
    with Upstream(echo) as upstream:
        upstream.size, upstream.pause = 3, 0.002
        chats: list[Chat] = []
        for number in range(KILLS if store_url.startswith("sqlite") else (KILLS + 1) // 2):
            new = [Chat("ann", f"{number}-{at}", at % 3 < 2, at % 2 == 0) for at in range(16)]
            with gateway(upstream.url, tmp_path, store_url) as running:
                asyncio.run(_until_killed(running, new, rng.randrange(1, 50), rng.uniform(0, 0.1)))
            chats += [chat for chat in new if chat.messages]
        with gateway(upstream.url, tmp_path, store_url) as running:
            stored = [one.messages for one in running.store().conversations()]
    for chat in chats:
        assert any(begins(messages, chat.messages) for messages in stored), (seed, chat.name, chat.messages)
    questions = Counter(message["content"] for messages in stored for message in messages[::2])
    assert max(questions.values()) == 1, (seed, questions.most_common(3))


def begins(stored: list[dict], got: list[dict]) -> bool:
    """Return whether what is stored begins with what a client got, of whose last answer more may be stored."""
    at = len(got) - 1
    return stored[:at] == got[:-1] and len(stored) > at and stored[at]["content"].startswith(got[at]["content"])


@pytest.mark.skipif(not POSTGRES, reason="SDPO_TEST_POSTGRES")
@pytest.mark.slow
def test_a_gateway_completes_what_the_other_left_open_but_not_what_that_is_answering(postgres_url, tmp_path):
    with Upstream(lambda body: "word " * 60) as upstream, ExitStack() as stack:
        upstream.pause, upstream.size = 0.02, 5
        url = postgres_url
        first = stack.enter_context(gateway(upstream.url, tmp_path / "1", url))
        second = stack.enter_context(gateway(upstream.url, tmp_path / "2", url))

        async def scenario() -> list[Chat]:
            chats = [Chat("ann", "killed", True, True), Chat("ann", "goes on", True, True)]
            async with httpx.AsyncClient(timeout=20) as client:
                tasks = [
                    asyncio.create_task(chat.say(client, one.url, "Talk."))
                    for chat, one in zip(chats, (first, second), strict=True)
                ]
                await asyncio.sleep(0.5)
                first.kill()
                with gateway(upstream.url, tmp_path / "3", url) as third:
                    assert "1 answers" in third.said
                await asyncio.gather(*tasks)
            return chats

        killed, goes_on = asyncio.run(scenario())
        store = second.store()
        assert begins(store.conversation("killed").messages, killed.messages)
        assert store.conversation("goes_on").messages[-1] == said("word " * 60) == goes_on.messages[-1]


def test_it_ends_at_once_on_sigterm_and_completes_what_it_is_answering(tmp_path: Path):
    with Upstream(lambda body: "word " * 30) as upstream, gateway(upstream.url, tmp_path) as running:
        upstream.pause, upstream.size = 0.02, 5

        async def scenario() -> Chat:
            chat = Chat("ann", "ends", True, True)
            async with httpx.AsyncClient(timeout=20) as client:
                task = asyncio.create_task(chat.say(client, running.url, "Talk."))
                async with asyncio.timeout(15):
                    while not upstream.bodies:
                        await asyncio.sleep(0.05)
                running.process.terminate()
                assert await task == 200
            return chat

        chat = asyncio.run(scenario())
        start = time.monotonic()
        running.process.wait(20)
        assert time.monotonic() - start < 5
        assert running.store().conversation("ends").messages == chat.messages
        assert chat.messages[-1] == said("word " * 30)
