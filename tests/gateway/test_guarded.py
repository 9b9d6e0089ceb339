"""Who is let in and how often, who is not kept, ratings, and which version answers."""

import json
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from sdpo.errors import RecordError
from sdpo.gateway.identity import OptOuts
from sdpo.gateway.keys import Key, Keys, Refused, make_key, revoke_key
from sdpo.gateway.store import Store
from sdpo.registry.live import Canary, Live, write_live
from tests.commands import ROOT, clean_environment
from tests.gateway.running import gateway, said, text_of
from tests.gateway.upstreams import Upstream


def job(name: str, *arguments: str, code: int = 0, **settings: str) -> str:
    """Run a job with flags, check its exit code and return its output, of an error the one line."""
    command = [sys.executable, "-m", f"jobs.{name}", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(**settings), capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert not code or len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr if code else done.stdout


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# Keys and limits


@pytest.mark.slow
def test_keys_are_needed_once_there_are_any_and_are_not_in_the_store(upstream, tmp_path):
    with gateway(upstream.url, tmp_path) as running:
        assert "only this machine" in running.said
        assert running.chat("Hello").status_code == 200
        key, other = (make_key(running.store(), name) for name in ("app", "other"))
        time.sleep(2.1)  # the gateway looks for keys again
        for headers in ({}, bearer("sdpo-wrong"), {"Authorization": f"Basic {key}"}):
            response = running.chat("Hello", headers=headers)
            assert response.status_code == 401 and response.json()["error"]["code"] == "invalid_api_key"
        assert running.chat("Hello", headers={"X-Api-Key": key}).status_code == 200
        for path in ("/v1/models", "/v1/embeddings", "/v1/feedback", "/anything"):
            assert httpx.post(running.root + path).status_code in (401, 405), path
        first = running.chat("Mine", headers=bearer(key) | {"x-conversation-id": "chat"})
        history = ["Mine", said("You said: Mine"), "More"]
        same = running.chat(*history, headers=bearer(key))
        assert same.headers["x-sdpo-conversation"] == first.headers["x-sdpo-conversation"] == "chat"
        for headers in ({}, {"x-conversation-id": "chat"}):
            theirs = running.chat(*history, headers=bearer(other) | headers)
            assert theirs.headers["x-sdpo-conversation"] != "chat"
        rating = {"exchange": first.headers["x-sdpo-exchange"], "rating": 1}
        assert httpx.post(f"{running.url}/feedback", json=rating, headers=bearer(other)).status_code == 404
        assert httpx.post(f"{running.url}/feedback", json=rating, headers=bearer(key)).status_code == 200
        assert {one.user for one in running.store().conversations()} == {"", "app", "other"}
        revoke_key(running.store(), "app")
        time.sleep(2.1)
        assert running.chat("Hello", headers=bearer(key)).status_code == 401
        assert httpx.get(f"{running.root}/health").status_code == 200
        metrics = httpx.get(f"{running.root}/metrics").text
        assert 'rejected_total{reason="invalid_api_key"}' in metrics
    content = b"".join(path.read_bytes() for path in tmp_path.glob("store.sqlite*"))
    assert key.encode() not in content and other.encode() not in content
    with gateway(upstream.url, tmp_path) as running:
        assert "need a key" in running.said


@pytest.mark.slow
def test_a_gateway_for_others_whose_last_key_was_withdrawn_lets_nobody_in(upstream, tmp_path):
    key = make_key(Store(f"sqlite:///{tmp_path / 'store.sqlite'}"), "app")
    with gateway(upstream.url, tmp_path, GATEWAY_HOST="0.0.0.0") as running:
        running.url, running.root = (each.replace("0.0.0.0", "127.0.0.1") for each in (running.url, running.root))
        assert running.chat("Hello", headers=bearer(key)).status_code == 200
        revoke_key(running.store(), "app")
        time.sleep(2.1)  # the gateway looks for keys again
        for headers in ({}, bearer(key), {"Host": "localhost"}):
            response = running.chat("Hello", headers=headers)
            assert response.status_code == 401 and "were withdrawn" in response.json()["error"]["message"]


def test_a_key_is_made_once_and_withdrawn_on_the_command_line(tmp_path):
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    key = job("gateway_key", "--name", "app", STORE_URL=url).splitlines()[-1]
    keys = Keys(Store(url))
    keys.refresh()
    assert key.startswith("sdpo-") and keys.key_of(key) == Key("app")
    assert "NAME=app" in job("gateway_key", "--name", "app", STORE_URL=url, code=2)
    assert "make gateway-key NAME=" in job("gateway_key", STORE_URL=url, NAME="shell", code=2)
    job("gateway_key", "--name", "app", "--revoke", STORE_URL=url)
    keys = Keys(Store(url))
    keys.refresh()
    with pytest.raises(Refused):
        keys.key_of(key)


@pytest.mark.slow
def test_a_keys_limits_are_its_own(tmp_path):
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    store = Store(url)
    slow, few, free = make_key(store, "slow", at_once=1), make_key(store, "few", per_minute=3), make_key(store, "free")
    with Upstream() as upstream, gateway(upstream.url, tmp_path, MAX_IN_FLIGHT="2") as running:
        seen = [running.chat("Hello", headers=bearer(few)) for _ in range(4)]
        assert [response.status_code for response in seen] == [200, 200, 200, 429]
        assert 1 <= int(seen[-1].headers["retry-after"]) <= 20
        upstream.delay = 1.0
        codes: list[int] = []

        def ask(key: str) -> None:
            codes.append(running.chat("Hello", headers=bearer(key)).status_code)

        for keys, expected in (([slow, slow], [200, 429]), ([free] * 3, [200, 200, 429])):
            codes.clear()
            threads = [threading.Thread(target=ask, args=(key,)) for key in keys]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sorted(codes) == expected
        assert httpx.get(f"{running.root}/metrics").text.count("in_flight 0") == 1


def test_without_keys_it_listens_on_loopback_only_and_answers_this_machine_only(upstream, running, tmp_path):
    url = f"sqlite:///{tmp_path / 'store.sqlite'}"
    assert "make gateway-key" in job("gateway", "--gateway-host", "0.0.0.0", STORE_URL=url, GATEWAY_PORT="0", code=2)
    with gateway(upstream.url, tmp_path, GATEWAY_HOST="0.0.0.0", GATEWAY_OPEN="1") as open_one:
        assert "whoever reaches this address" in open_one.said
        for host, code in (("gateway:8787", 200), ("10.0.0.7", 200), ("evil.example", 403)):
            assert open_one.chat("Hello", headers={"Host": host}).status_code == code
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        response = running.chat("Hello", headers=headers)
        assert response.status_code == 403 and "make gateway-key" in response.json()["error"]["message"]
    for headers in ({"Host": "localhost:1"}, {"Origin": "http://127.0.0.1:3000"}):
        assert running.chat("Hello", headers=headers).status_code == 200


def test_a_port_that_is_taken_and_a_store_in_use_are_one_line(running, upstream):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert "GATEWAY_PORT" in job("gateway", GATEWAY_PORT=port, STORE_URL=running.store_url, code=1)
    assert "another gateway" in job("gateway", GATEWAY_PORT="0", STORE_URL=running.store_url, code=1)


# Who is not kept


def test_who_opts_out_is_not_kept_and_nor_is_what_goes_on_from_there(upstream, tmp_path):
    listed = tmp_path / "opted-out"
    listed.write_text("# users\ncarl\n")
    with gateway(upstream.url, tmp_path, OPT_OUT_FILE=str(listed)) as running:
        first = running.chat("Keep this", user="ann")
        out = {"x-sdpo-opt-out": "1"}
        history: list = ["Keep this", said(text_of(first)), "Not this"]
        second = running.chat(*history, user="ann", headers=out, stream=True)
        assert second.status_code == 200 and "x-sdpo-exchange" not in second.headers
        history += [said("You said: Not this"), "Nor this"]
        running.chat(*history, user="ann")
        running.chat("In a named one", user="ann", headers=out | {"x-conversation-id": "named"})
        running.chat("Nor this here", user="ann", headers={"x-conversation-id": "named"})
        running.chat("Of carl", user="carl")
        listed.write_text("carl\ndora\n")
        running.chat("Of dora", user="dora")
        running.chat("Not this", user="bob")  # another user may say the same
        kept = [(one.user, one.messages[0]["content"], len(one.messages)) for one in running.store().conversations()]
        assert kept == [("ann", "Keep this", 2), ("bob", "Not this", 2)]
        assert 'exchanges_not_stored_total{reason="opt-out"} 6' in httpx.get(f"{running.root}/metrics").text
    content = b"".join(path.read_bytes() for path in tmp_path.glob("store.sqlite*"))
    for words in (b"Nor this", b"In a named", b"Of carl", b"Of dora"):
        assert words not in content


def test_the_file_of_who_opts_out_is_read_as_editors_save_it_and_refused_if_it_cannot_be(tmp_path, capsys):
    listed = tmp_path / "opted-out"
    for encoding in ("utf-8-sig", "utf-16"):
        listed.write_bytes("maria\r\n# old\r\njörg\r\n".encode(encoding))
        users = OptOuts(listed)
        assert "maria" in users and "jörg" in users and "# old" not in users and "bob" not in users
    listed.write_bytes("maria\njörg\nbob\n".encode("latin-1"))
    assert "maria" in users and "bob" not in users and "jörg" in users
    assert capsys.readouterr().err.count("OPT_OUT_FILE") == 1
    with pytest.raises(RecordError, match=r"is not UTF-8 or UTF-16"):
        OptOuts(listed)
    listed.unlink()
    assert "maria" in users
    error = job("gateway", UPSTREAM="http://127.0.0.1:9/v1", OPT_OUT_FILE=str(listed), code=2)
    assert "OPT_OUT_FILE" in error
    listed.write_bytes(b"j\xf6rg\n")
    assert "opted-out is not UTF-8" in job(
        "gateway", UPSTREAM="http://127.0.0.1:9/v1", OPT_OUT_FILE=str(listed), code=1
    )


def test_a_request_beside_a_conversation_is_answered_and_not_kept_and_the_conversation_goes_on(running):
    first = running.chat("Beside", user="besides")
    beside = running.chat("Beside", said(text_of(first)), "And?", user="besides", headers={"x-sdpo-beside": "1"})
    assert beside.status_code == 200 and "x-sdpo-exchange" not in beside.headers
    running.chat("Beside", said(text_of(first)), "And?", user="besides")
    [kept] = [one for one in running.store().conversations() if one.user == "besides"]
    assert len(kept.messages) == 4


def test_an_upstream_that_does_not_answer_is_said_at_the_start_and_a_dry_run_says_what_it_serves(upstream, tmp_path):
    dead = "http://127.0.0.1:9/v1"
    with gateway(dead, tmp_path) as running:
        assert running.chat("Hello").status_code == 502
        running.process.terminate()
        assert f"the upstream {dead} does not answer" in running.process.stdout.read()
    assert f"{upstream.url} answers and serves: base-model" in job("gateway", "--dry-run", UPSTREAM=upstream.url)
    assert f"warning: The upstream {dead} cannot be reached" in job("gateway", "--dry-run", UPSTREAM=dead)


# Ratings


def rate(running, body) -> httpx.Response:
    return httpx.post(f"{running.url}/feedback", json=body)


def test_ratings_by_exchange_and_by_message_the_newest_counts(running):
    system = {"role": "system", "content": "Be kind."}
    first = running.chat(system, "a", user="rates")
    running.chat(system, "a", said("You said: a"), "b", user="rates")
    name, exchange = (first.headers[f"x-sdpo-{kind}"] for kind in ("conversation", "exchange"))
    assert rate(running, {"exchange": exchange, "rating": "up", "comment": "fine"}).status_code == 200
    assert (
        rate(running, {"conversation": name, "message": 2, "rating": "down"}).json()["stored"][0]["exchange"]
        == exchange
    )
    assert rate(running, {"conversation": name, "rating": 1}).status_code == 200
    kept = running.store().conversation(name)
    assert kept.ratings == [
        {"message": 2, "rating": -1, "comment": None},
        {"message": 4, "rating": 1, "comment": None},
    ]
    for wrong in (
        {"conversation": name, "message": 1, "rating": 1},
        {"conversation": name, "message": 99, "rating": 1},
        {"conversation": "none", "rating": 1},
        {"exchange": "x-none", "rating": 1},
    ):
        assert rate(running, wrong).status_code == 404
    for wrong in (
        {"exchange": exchange}, {"rating": 1}, {"exchange": exchange, "rating": "?"},
        {"exchange": exchange, "rating": 7}, 3, {}, None,
    ):  # fmt: skip
        response = rate(running, wrong)
        assert response.status_code == 400 and response.json()["error"]["message"].count('"exchange"') == 1
    assert httpx.post(f"{running.url}/feedback", content=b"{").status_code == 400


# Versions


@pytest.mark.slow
def test_the_served_name_is_the_live_version_at_once_and_a_conversation_stays_on_its_side_of_a_canary(
    upstream, tmp_path
):
    registry = tmp_path / "registry"
    registry.mkdir()
    upstream.answer = lambda body: f"by {body['model']}"
    with gateway(upstream.url, tmp_path, SERVED_NAME="mine") as running:

        def ask(*messages, **more) -> tuple[str, str]:
            response = running.chat(*messages, **{"model": "mine"} | more)
            return text_of(response).removeprefix("by "), response.headers["x-sdpo-version"]

        assert ask("a") == ("base-model", "base")
        write_live(registry, Live("v0001", "lora-1"))
        assert ask("b") == ("lora-1", "v0001") and ask("b", model="other") == ("other", "base")
        assert ask("b", model="lora-1") == ("lora-1", "v0001")
        listed = httpx.get(f"{running.url}/models").json()["data"]
        assert listed[0]["id"] == "mine" and listed[0]["root"] == "lora-1"
        write_live(registry, Live("v0001", "lora-1", Canary("v0002", "lora-2", 0.5)))
        seen = []
        for number in range(24):
            history: list = []
            for text in ("one", "two", "three"):
                history.append(f"{text} {number}")
                model, version = ask(*history, user=f"u{number}")
                history.append(said(f"by {model}"))
                seen.append((number, version))
                assert version == {"lora-1": "v0001", "lora-2": "v0002"}[model]
        assert len(set(seen)) == 24 and {version for _, version in seen} == {"v0001", "v0002"}
        kept = {version for one in running.store().conversations() for version in one.versions}
        assert kept == {"", "v0001", "v0002"}
        (registry / "live.json").write_text("half")
        assert ask("c")[1] in ("v0001", "v0002")
        (registry / "live.json").unlink()
        assert ask("d") == ("base-model", "base")


# Jobs about the store


@pytest.mark.slow
def test_forget_names_what_learned_and_export_is_read_by_prep_logs(upstream, tmp_path):
    with gateway(upstream.url, tmp_path) as running:
        url, registry = running.store_url, tmp_path / "registry"
        for user in ("ann", "bob"):
            first = running.chat("Tell me", user=user)
            history = ["Tell me", said(text_of(first)), f"Shorter, {user}"]
            running.chat(*history, user=user, stream=True)
            rate(running, {"exchange": first.headers["x-sdpo-exchange"], "rating": "down" if user == "ann" else "up"})
        running.chat(*history[:-1], "Shorter, please", user="bob")  # bob's message edited: a branch
        ids = {one.user: one.id.partition("~")[0] for one in running.store().conversations()}
        out = tmp_path / "data"
        job("export_conversations", STORE_URL=url, OUT_DIR=str(out))
        assert "FORCE=1" in job("export_conversations", STORE_URL=url, OUT_DIR=str(out), code=1)
        path = out / "conversations.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [(line["user"], line["id"]) for line in lines] == [
            ("ann", ids["ann"]), ("bob", f"{ids['bob']}"), ("bob", f"{ids['bob']}~2"),
        ]  # fmt: skip
        job("prep_logs", "--input", str(path), "--out-dir", str(tmp_path / "logs"))
        rows = [json.loads(line) for line in (tmp_path / "logs" / "logs_interactions.jsonl").read_text().splitlines()]
        shown = [(row["conversation_id"], row["completion"], row["user_response"], row["rating"]) for row in rows]
        assert shown == [
            (ids["ann"], "You said: Tell me", "Shorter, ann", -1),
            (ids["bob"], "You said: Tell me", "Shorter, please", 1),
            (f"{ids['bob']}~2", "You said: Tell me", "Shorter, bob", 1),
        ]
        running.store().mark_used([ids["ann"]], "night-1")
        output = job("export_conversations", "--only-unused", "--force", STORE_URL=url, OUT_DIR=str(out))
        assert output.splitlines()[-2].startswith("2 conversations")
        for name, data in (("v0001", [ids["ann"]]), ("v0002", [ids["bob"], f"{ids['ann']}~old"])):
            (registry / "versions" / name).mkdir(parents=True)
            (registry / "versions" / name / "version.json").write_text(json.dumps({"data": {"conversations": data}}))
        assert "make forget USER=" in job("forget", STORE_URL=url, USER="ann", code=2)
        planned = job("forget", "--user", "ann", "--dry-run", STORE_URL=url, REGISTRY=str(registry))
        assert "would remove what ann said: conversations 1, exchanges 2" in planned and "v0001" in planned
        assert {one.user for one in running.store().conversations()} == {"ann", "bob"}
        output = job("forget", "--user", "ann", STORE_URL=url, REGISTRY=str(registry))
        assert "removed what ann said: conversations 1, exchanges 2" in output and "night-1" in output
        assert "v0001" in output and "v0002" not in output
        assert {one.user for one in running.store().conversations()} == {"bob"}
        for more in ((), ("--dry-run",)):
            assert "nobody of the name ann" in job("forget", "--user", "ann", *more, STORE_URL=url)
        assert "does not exist" in job("forget", "--user", "ann", STORE_URL=f"sqlite:///{tmp_path / 'no'}", code=2)


def test_what_is_older_than_the_retention_is_removed_at_the_start(upstream, tmp_path):
    store = Store(f"sqlite:///{tmp_path / 'store.sqlite'}")
    for text, started_at in (("old", time.time() - 9e5), ("young", time.time())):
        store.add_conversation([{"role": "user", "content": text}, said("x")], started_at=started_at)
    with gateway(upstream.url, tmp_path, RETENTION_DAYS="7") as running:
        for _ in range(100):
            if len(kept := list(running.store().conversations())) == 1:
                break
            time.sleep(0.05)
        assert [one.messages[0]["content"] for one in kept] == ["young"]


def test_a_server_that_lists_no_models_still_serves_the_one_that_is_known(upstream, running, tmp_path):
    upstream.models = (500, b"no list")
    response = httpx.get(f"{running.url}/models")
    assert (response.status_code, response.content) == (500, b"no list")
    with gateway(upstream.url, tmp_path, UPSTREAM_MODEL="base") as knows:
        [served] = httpx.get(f"{knows.url}/models").json()["data"]
        assert (served["id"], served["root"]) == ("sdpo", "base")
        assert knows.chat("Hello").status_code == 200 and upstream.bodies[-1]["model"] == "base"
        assert httpx.get(f"{knows.root}/health").json() == {"status": "ok", "store": "ok", "upstream": "ok"}


def test_a_server_that_lists_no_model_is_said_instead_of_asked_for_a_name_that_it_cannot_know(upstream, tmp_path):
    upstream.models = (200, b'{"object": "list", "data": []}')
    with gateway(upstream.url, tmp_path) as running:
        response = running.chat("Hello")
        assert response.status_code == 502 and "Set UPSTREAM_MODEL" in response.json()["error"]["message"]
        assert running.chat("Hello", model="its-own").status_code == 200  # a name of its own is passed on


def test_an_upstream_without_a_path_is_its_api(upstream, tmp_path):
    with gateway(upstream.url.removesuffix("/v1"), tmp_path) as running:
        assert running.chat("Hello").status_code == 200 and upstream.paths[-1] == "POST /v1/chat/completions"
        assert "/v1; store" in running.said


def test_request_ids_are_kept_or_made(running):
    assert running.chat("a", headers={"x-request-id": "mine 1"}).headers["x-request-id"] == "mine_1"
    made = httpx.get(f"{running.url}/models").headers["x-request-id"]
    assert made.startswith("req-")


@pytest.mark.parametrize("days", ["-1", "x"])
def test_a_wrong_setting_is_one_line(days):
    assert "RETENTION_DAYS" in job("gateway", RETENTION_DAYS=days, code=2)
