"""The loop closed in the tiny world, over HTTP: users talk to the gateway, a night of learning, users talk again.

    python -m benchmarks.loop [--conversations 1000] [--clients 64] [--out FOLDER]

`transformers serve` has the tiny model, `make gateway` is in front of it. The clients, half of whom want short answers
and half formal ones, talk at once, every second one streaming. Then the store is compared with what the clients saw,
`make learn` learns from it and lets the version go live in the server, 256 new conversations are measured, and `make
rollback` goes back. Printed: whether anything was lost or doubled, adherence before and after, the other axes, and
whether the base model answers as before, to the token.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx

from benchmarks.nights import STYLE, TASTES
from sdpo.gateway.store import Store
from sdpo.llm.server import end_with_parent
from sdpo.registry.live import read_live
from sdpo.tiny import MODEL_DIR, language, oracle
from sdpo.tiny.logged import messages_of
from sdpo.tiny.users import OracleUser

FRESH = 256


@contextmanager
def process(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen]:
    """Run a command in the background, its output in a file, and stop it at the end."""
    with log.open("wb") as file:
        started = subprocess.Popen(
            command, env=os.environ | environment, stdout=file, stderr=subprocess.STDOUT, preexec_fn=end_with_parent()
        )
    try:
        yield started
    finally:
        started.terminate()
        started.wait(60)


def wait_for(url: str) -> None:
    """Wait until a server responds."""
    deadline = time.monotonic() + 120
    while True:
        try:
            httpx.get(url.removesuffix("/v1") + "/health", timeout=5, trust_env=False)
            return
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


class Clients:
    """Clients that talk to a gateway at once. `seen` has the messages of each conversation by its id."""

    def __init__(self, url: str, clients: int) -> None:
        self.url, self.clients = url, clients
        self.seen: dict[str, list[dict]] = {}
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
        headers, messages = {"x-user-id": f"user-{number % self.clients}"}, [dict(one) for one in messages_of(post)]
        stream = number % 2 == 1
        answer, name = await self._ask(client, messages, headers, stream, 48, temperature)
        messages.append({"role": "assistant", "content": answer})
        if follow_up and name:
            user = OracleUser(dict(TASTES[number % self.clients % 2]), seed=number)
            messages.append({"role": "user", "content": user.react([post.text], [answer])[0].text})
            headers |= {"x-sdpo-conversation": name}
            more, again = await self._ask(client, messages, headers, stream, 2, temperature)
            messages.append({"role": "assistant", "content": more})
            if again != name:
                self.errors.append(f"{name} went on as {again}")
        self.seen[name] = messages
        return answer

    async def _ask(
        self,
        client: httpx.AsyncClient,
        messages: list[dict],
        headers: dict,
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


def compare_with_store(store: Store, clients: Clients) -> str:
    """Return how the store differs from what the clients saw."""
    stored = {one.id: one.messages for one in store.conversations()}
    lost, added = set(clients.seen) - set(stored), set(stored) - set(clients.seen)
    texts = {name: [(one["role"], one["content"]) for one in messages] for name, messages in stored.items()}
    wrong = [
        name
        for name, messages in clients.seen.items()
        if name in texts and texts[name] != [(one["role"], one["content"]) for one in messages]
    ]
    return f"{len(stored)} conversations stored, {len(lost)} lost, {len(added)} unknown, {len(wrong)} different"


def row(name: str, answers: list[tuple[str, str]]) -> str:
    """Return the oracle's figures as a line."""
    posts, texts = zip(*((post, answer.strip()) for post, answer in answers), strict=True)  # streams begin with "\n\n"
    figures = oracle.summarize(posts, texts, oracle.wants_of(STYLE))
    axes = " ".join(f"{axis} {share:.2f}" for axis, share in figures["axes"].items())
    return f"{name:12} adherence {figures['adherence']:.3f} validity {figures['validity']:.3f} {axes}"


def job(name: str, *flags: str) -> str:
    """Run a job and return its last lines. Ends this process if it failed."""
    done = subprocess.run([sys.executable, "-m", f"jobs.{name}", *flags], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} ended with {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return "\n".join(done.stdout.strip().splitlines()[-3:])


def main() -> None:
    """Go once around."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--out", type=Path, help="the folder for store, registry and runs; if not set, a temporary one")
    given = parser.parse_args()
    folder = (given.out or Path(tempfile.mkdtemp(prefix="loop-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    store_url, registry = f"sqlite:///{folder / 'store.sqlite'}", folder / "registry"
    server, port = [sys.executable, "-m", "transformers.cli.transformers", "serve", "--device", "cpu"], "18643"
    upstream = f"http://127.0.0.1:{port}/v1"
    flags = ["--tiny", "--registry", str(registry), "--upstream", upstream, "--unload-after", "0"]
    settings = {"UPSTREAM": upstream, "UPSTREAM_MODEL": str(MODEL_DIR), "STORE_URL": store_url, "GATEWAY_PORT": "18644"}
    with (
        process([*server, "--port", port, "--reasoning", "off"], folder / "server.log", CUDA_VISIBLE_DEVICES=""),
        process([sys.executable, "-m", "jobs.gateway"], folder / "gateway.log", REGISTRY=str(registry), **settings),
    ):
        url = re.sub(port, settings["GATEWAY_PORT"], upstream)
        wait_for(upstream), wait_for(url)
        clients, fresh = Clients(url, given.clients), Clients(url, given.clients)
        greedy = [clients_answers(url)]
        started = time.monotonic()
        talked = clients.talk(given.conversations, seed=1)
        seconds = time.monotonic() - started
        print(
            f"{len(talked)} conversations of {given.clients} clients in {seconds:.0f} s, {len(clients.errors)} errors"
        )
        print(*clients.errors[:3], sep="\n", end="")
        print(compare_with_store(Store(store_url, create=False), clients), flush=True)
        print(row("before", talked), flush=True)
        started = time.monotonic()
        print(job("learn", *flags, "--store-url", store_url, "--scratch", str(folder)), flush=True)
        print(f"the night took {time.monotonic() - started:.0f} s", flush=True)
        print(row("after", fresh.talk(FRESH, seed=2, follow_up=False)), dict(fresh.versions), flush=True)
        greedy.append(clients_answers(url))
        print(job("rollback", *flags), f"live: {read_live(registry).version}", flush=True)
        greedy.append(clients_answers(url))
        print(
            f"the version answers otherwise: {greedy[1] != greedy[0]}; rolled back as before: {greedy[2] == greedy[0]}"
        )
    print(f"folder: {folder}")


def clients_answers(url: str) -> list[str]:
    """Return greedy answers to a few posts, which are not kept."""
    texts = []
    for post in (language.sample_post(Random(seed), held=True) for seed in range(8)):
        body = {"model": "sdpo", "messages": messages_of(post), "max_tokens": 40, "temperature": 0}
        headers = {"x-sdpo-opt-out": "1"}
        response = httpx.post(f"{url}/chat/completions", json=body, headers=headers, timeout=600, trust_env=False)
        texts.append(response.json()["choices"][0]["message"]["content"])
    return texts


if __name__ == "__main__":
    main()
