"""Users of the tiny world who talk to a gateway over HTTP: half of them want short answers, half formal ones."""

import asyncio
import json
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any

import httpx

from sdpo.text.prompts import Message
from sdpo.tiny import language, oracle
from sdpo.tiny.logged import messages_of
from sdpo.tiny.users import OracleUser

if TYPE_CHECKING:
    from sdpo.gateway.store import Store

STYLE = "concise_professional_expert"  # what both tastes together ask for
TASTES = ({"long": False}, {"casual": False})
_ANSWER_TOKENS, _LAST_TOKENS = 48, 2
_KEPT_OUT = {"x-sdpo-opt-out": "1"}


class Clients:
    """Clients that talk to a gateway at once. `seen` has the messages of each conversation by its id."""

    def __init__(self, url: str, clients: int) -> None:
        self.url, self.clients = url, clients
        self.seen: dict[str, list[Message]] = {}
        self.errors: list[str] = []
        self.versions = Counter[str]()

    def talk(self, count: int, seed: int, follow_up: bool = True, temperature: float = 1.0) -> list[tuple[str, str]]:
        """Return (post, answer) of this many conversations; with a follow-up each has a second answer."""
        return asyncio.run(self._talk(count, seed, follow_up, temperature))

    async def _talk(self, count: int, seed: int, follow_up: bool, temperature: float) -> list[tuple[str, str]]:
        rng = Random(seed)
        posts = [language.sample_post(rng, held=not follow_up) for _ in range(count)]
        gate = asyncio.Semaphore(self.clients)
        limits = httpx.Limits(max_connections=self.clients)
        async with httpx.AsyncClient(timeout=600, limits=limits, trust_env=False) as client:

            async def one(number: int, post: language.Post) -> tuple[str, str]:
                async with gate:
                    return post.text, await self._conversation(client, number, post, follow_up, temperature)

            return await asyncio.gather(*(one(number, post) for number, post in enumerate(posts)))

    async def _conversation(
        self, client: httpx.AsyncClient, number: int, post: language.Post, follow_up: bool, temperature: float
    ) -> str:
        headers, messages = {"x-user-id": f"user-{number % self.clients}"}, messages_of(post)
        stream = number % 2 == 1
        answer, name = await self._ask(client, messages, headers, stream, _ANSWER_TOKENS, temperature)
        messages.append({"role": "assistant", "content": answer})
        if follow_up and name:
            user = OracleUser(dict(TASTES[number % self.clients % 2]), seed=number)
            messages.append({"role": "user", "content": user.react([post.text], [answer])[0].text})
            more, again = await self._ask(client, messages, headers, stream, _LAST_TOKENS, temperature)
            messages.append({"role": "assistant", "content": more})
            if again != name:
                self.errors.append(f"{name} went on as {again}")
        self.seen[name] = messages
        return answer

    async def _ask(
        self,
        client: httpx.AsyncClient,
        messages: list[Message],
        headers: dict[str, str],
        stream: bool,
        tokens: int,
        temperature: float,
    ) -> tuple[str, str]:
        """Return the answer and the conversation's id."""
        body: dict[str, Any] = {"model": "sdpo", "messages": messages, "max_tokens": tokens, "stream": stream}
        body |= {"temperature": temperature}
        response = await client.post(f"{self.url}/chat/completions", json=body, headers=headers)
        if response.status_code != 200:
            self.errors.append(f"HTTP {response.status_code} {response.text[:200]}")
            return "", ""
        self.versions[response.headers.get("x-sdpo-version", "")] += 1
        name = response.headers["x-sdpo-conversation"]
        if not stream:
            return response.json()["choices"][0]["message"]["content"] or "", name
        parts = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
        texts = (choice["delta"].get("content") or "" for part in parts for choice in part["choices"])
        return "".join(texts), name


def greedy_answers(url: str, count: int = 8) -> list[str]:
    """Return the likeliest answers to a few posts, which are not kept."""
    texts = []
    for post in (language.sample_post(Random(seed), held=True) for seed in range(count)):
        body = {"model": "sdpo", "messages": messages_of(post), "max_tokens": _ANSWER_TOKENS, "temperature": 0}
        response = httpx.post(f"{url}/chat/completions", json=body, headers=_KEPT_OUT, timeout=600, trust_env=False)
        texts.append(str(response.json()["choices"][0]["message"]["content"]).strip())
    return texts


def figures(answers: list[tuple[str, str]]) -> dict[str, Any]:
    """Return the oracle's figures of pairs of post and answer: adherence to both tastes, validity, axes."""
    posts, texts = zip(*((post, answer.strip()) for post, answer in answers), strict=True)  # streams begin with "\n\n"
    return oracle.summarize(posts, texts, oracle.wants_of(STYLE))


def compare_with_store(store: "Store", clients: Clients) -> dict[str, int]:
    """Return how many conversations are stored, and how many are lost, unknown to the clients, or different."""
    stored = {one.id: one.messages for one in store.conversations()}
    texts = {name: [(one["role"], one["content"]) for one in messages] for name, messages in stored.items()}
    seen = {name: [(one["role"], one["content"]) for one in messages] for name, messages in clients.seen.items()}
    return {
        "stored": len(stored),
        "lost": len(set(seen) - set(stored)),
        "unknown": len(set(stored) - set(seen)),
        "different": sum(texts[name] != messages for name, messages in seen.items() if name in texts),
    }
