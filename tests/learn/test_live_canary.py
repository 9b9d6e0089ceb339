"""A canary through a running gateway, over HTTP: a share of whole conversations, ratings, an interval, a decision."""

import asyncio
import json
from pathlib import Path
from random import Random

import httpx
import pytest

from sdpo.gateway.store import Store
from sdpo.registry.live import in_canary, read_live
from sdpo.runtime.launch import main
from sdpo.tiny import language, oracle
from sdpo.tiny.logged import messages_of
from sdpo.tiny.users import OracleUser
from tests.commands import JOBS
from tests.gateway.running import gateway
from tests.gateway.upstreams import Upstream
from tests.registries import add, write_adapter

WANTED = {"long": False}
SHARE, PERSONS, CONVERSATIONS = 0.4, 30, 120


def answers_of(registry: Path, better: str):
    """Return a server's answers: of the `better` version as the users want them, of the other one in any style."""
    rng = Random(6)

    def answer(body: dict) -> str:
        assert Path(body["model"]).parent.parent == registry / "versions", body["model"]
        if len(body["messages"]) > 2:
            return "TL;DR: Noted."
        style = language.sample_style(rng)
        if Path(body["model"]).parent.name == better:
            style = style._replace(**WANTED)
        else:
            style = style._replace(long=rng.random() < 0.8)
        return language.write_answer(rng, language.sample_post(rng), style)

    return answer


async def talk(url: str, seed: int) -> list[tuple[str, set[str]]]:
    """Let all persons talk and rate at once; return each conversation's id and the versions that answered in it."""
    rng, gate = Random(seed), asyncio.Semaphore(16)
    posts = [language.sample_post(rng) for _ in range(CONVERSATIONS)]
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:

        async def one(number: int, post: language.Post) -> tuple[str, set[str]]:
            user = OracleUser(WANTED, seed=number)
            messages, versions, name = [dict(message) for message in messages_of(post)], set[str](), ""
            headers = {"x-user-id": f"user-{number % PERSONS}"}
            async with gate:
                for _ in range(2):
                    body = {"model": "sdpo", "messages": messages, "stream": False}
                    response = await client.post(f"{url}/chat/completions", json=body, headers=headers)
                    assert response.status_code == 200, response.text
                    versions.add(response.headers["x-sdpo-version"])
                    name = response.headers["x-sdpo-conversation"]
                    said = response.json()["choices"][0]["message"]["content"]
                    messages.append({"role": "assistant", "content": said})
                    if len(messages) > 3:
                        break
                    messages.append({"role": "user", "content": user.react([post.text], [said])[0].text})
                    good = oracle.read_follow_up(messages[-1]["content"]).kind != "request"
                    rating = {"exchange": response.headers["x-sdpo-exchange"], "rating": 1 if good else -1}
                    if number % 2:
                        assert (await client.post(f"{url}/feedback", json=rating)).status_code == 200
            return name, versions

        return await asyncio.gather(*(one(number, post) for number, post in enumerate(posts)))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return [write_adapter(folder / str(seed), seed) for seed in (1, 2)]


@pytest.mark.slow
@pytest.mark.parametrize(("better", "live_after"), [("v0002", "v0002"), ("v0001", "v0001")])
def test_a_canary_answers_its_share_of_whole_conversations_and_is_decided_by_what_users_say(
    tmp_path, capsys, adapters, better, live_after
):
    registry = tmp_path / "registry"
    for adapter in adapters:
        add(registry, adapter)
    with Upstream(answers_of(registry, better)) as upstream, gateway(upstream.url, tmp_path) as running:
        flags = ["--registry", str(registry), "--upstream", upstream.url, "--unload-after", "0"]
        assert main(JOBS["jobs.promote"], [*flags, "--version", "v0001"]) == 0
        assert main(JOBS["jobs.promote"], [*flags, "--version", "v0002", "--canary", str(SHARE)]) == 0
        canary = read_live(registry).canary
        talked = asyncio.run(talk(running.url, seed=1))
        for name, versions in talked:
            assert versions == {"v0002" if in_canary(name, canary) else "v0001"}, name
        share = sum("v0002" in versions for _, versions in talked) / len(talked)
        assert abs(share - SHARE) < 0.15  # over three standard deviations
        # The comparison, on its own and then with its decision, from what is in the gateway's store.
        compare = ["--tiny", *flags, "--store-url", running.store_url, "--canary-min", "12"]
        assert main(JOBS["jobs.canary"], compare) == 0
        shown = capsys.readouterr().out
        assert "good ratings" in shown and "[" in shown and read_live(registry).canary == canary
        assert main(JOBS["jobs.canary"], [*compare, "--finish"]) == 0
        live = read_live(registry)
        assert (live.version, live.canary) == (live_after, None), capsys.readouterr().out
        after = asyncio.run(talk(running.url, seed=2))
        assert {version for _, versions in after for version in versions} == {live_after}
        store = Store(running.store_url)
        kept = list(store.conversations())
        assert len(kept) == len({one.id for one in kept}) == 2 * CONVERSATIONS
        assert sum(len(one.ratings) for one in kept) == CONVERSATIONS
        actions = [json.loads(line)["action"] for line in (registry / "history.jsonl").read_text().splitlines()]
        assert actions == ["promote", "canary", "promote" if live_after == "v0002" else "end of canary"]
