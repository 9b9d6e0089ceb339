"""A real vLLM as simulated user, as judge and as the server of versions: SDPO_REAL_VLLM names the folder of an
environment that has it; without it these tests are skipped.

vLLM serves the tiny world's model on the CPU, so what is said is of no interest: who was asked, how often, for whom and
in which form is, and what a restart loses. Its own counters say what it did.
"""

import json
import re
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from random import Random

import openai
import pytest
from safetensors.torch import load_file

from sdpo.errors import ServerError
from sdpo.llm import Client, OpenAIBackend, ReplyCache, Request, RequestRefused
from sdpo.registry import moves
from sdpo.registry.live import read_live
from sdpo.runtime.run_directory import RunDirectory
from sdpo.tiny import MODEL_DIR, language
from sdpo.users.judge import ApiJudge, Pair, verdicts_in_both_orders
from sdpo.users.simulator import SimulatedUser
from sdpo.users.styles import personas
from sdpo.users.trial import PROBES
from tests.evaluations import evaluate, make_run
from tests.gateway.running import gateway
from tests.registries import add, settings, write_adapter
from tests.registry.test_serving import answers, own_answers
from tests.servers import until
from tests.vllm_server import CONTEXT, ENVIRONMENT, LORA_RANK, MODEL, VllmServer
from tests.worlds import environment, job_command, rows_of, run_job

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not ENVIRONMENT, reason="SDPO_REAL_VLLM is not set")]

THOUGHTS = ["--reasoning-parser", "qwen3", "--default-chat-template-kwargs", '{"enable_thinking": false}']
NO_BLANKS = ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
STEPS, ROWS = 3, 16


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Return vLLM with thoughts parsed and switched off, and with the adapters of a folder loaded at first use."""
    served = VllmServer(tmp_path_factory.mktemp("vllm"))
    served.start(*THOUGHTS)
    yield served
    served.end(signal.SIGTERM)


def exchanges(count: int, seed: int = 3) -> list[tuple[str, str]]:
    random = Random(seed)
    posts = [language.sample_post(random) for _ in range(count)]
    return [(post.text, language.write_answer(random, post, language.sample_style(random))) for post in posts]


def client_of(server, model=MODEL, concurrency=64, **values) -> Client:
    return Client(OpenAIBackend(server.url, model, retries=0, **values), concurrency, cache=ReplyCache())


# The simulated user


def test_it_plays_the_user_of_an_online_run(server, tmp_path):
    before = server.counters()
    run_job(
        server.url, tmp_path / "run", user_model_name_or_path=MODEL, train_n=STEPS * ROWS, eval_n=0, save_steps=50,
        gradient_checkpointing=0,
    )  # fmt: skip
    rows = rows_of(tmp_path / "run" / "metrics.jsonl")
    assert [(row["interactions"], row["usable"]) for row in rows] == [(16, 16), (32, 16), (48, 16)]
    trial = json.loads((tmp_path / "run" / "user-trial.json").read_text())
    assert trial["failures"] == [] and trial["figures"]["empty"] == 0
    start, end = (load_file(folder / "model.safetensors") for folder in (MODEL_DIR, tmp_path / "run" / "checkpoint-3"))
    assert max(float((end[name] - start[name]).abs().max()) for name in start) > 1e-5
    replies = rows_of(tmp_path / "run" / "replies-0.jsonl")
    assert len(replies) == len({row["key"] for row in replies}) == PROBES + STEPS * ROWS
    assert server.since(before)["requests"] == PROBES + STEPS * ROWS  # each follow-up was generated once
    assert sum(row["tokens_out"] for row in replies) == server.since(before)["generated"]


def test_64_users_at_once_share_the_iterations_of_the_engine(server):
    pairs, before = exchanges(64), server.counters()
    client = client_of(server)
    follow_ups = SimulatedUser(client, personas()["no_emojis"], 0.7, 48).react(*zip(*pairs, strict=True))
    done = server.since(before)
    assert done["requests"] == len(follow_ups) == client.usage.requests == 64 and client.usage.failures == 0
    assert all(follow_up.problem is None for follow_up in follow_ups)
    assert done["generated"] / done["iterations"] > 8  # one after another it would be 1


# Judges


def verdict_pairs() -> list[Pair]:
    texts, style = exchanges(16, seed=8), personas()["no_emojis"]
    return [Pair(style, prompt, answer, texts[index - 1][1]) for index, (prompt, answer) in enumerate(texts)]


def test_a_judge_that_writes_blanks_for_json_gives_its_verdicts_as_text(server, capsys):
    """As vLLM is started by default, JSON may have any number of blanks, and the tiny model writes nothing else."""
    client, before = client_of(server), server.counters()
    verdicts = verdicts_in_both_orders(ApiJudge(client), verdict_pairs())
    assert {label for pair in verdicts for label in pair} <= set("ABC") and len(verdicts) == 16
    assert all(text.startswith("Verdict: ") for text in texts_of(client))
    assert client.usage.requests == 32 < server.since(before)["requests"] <= 64
    assert capsys.readouterr().err.count("fills structured output with blanks") == 1


# Versions


def test_versions_are_loaded_by_request_and_answer_to_the_token_as_their_adapters_do(server, tmp_path):
    registry = tmp_path / "registry"
    adapters = [write_adapter(tmp_path / str(seed), seed, size) for seed, size in ((1, 0.08), (2, 0.15))]
    for adapter in adapters:
        add(registry, adapter)
    expected = [own_answers(), *(own_answers(str(adapter)) for adapter in adapters)]
    assert len(set(map(tuple, expected))) == 3
    given, bases = settings(registry, server.url), server.models()
    names = {}
    for version, own in (("v0001", expected[1]), ("v0002", expected[2])):
        moves.promote(given, version)
        names[version] = read_live(registry).model
        assert answers(server.url, names[version]) == own
        assert server.models() == bases | {names[version]}  # the one before was unloaded
    assert moves.rollback(given) == "v0001" and answers(server.url, read_live(registry).model) == expected[1]
    assert moves.rollback(given) is None and answers(server.url, read_live(registry).model) == expected[0]
    assert server.models() == bases


def test_through_the_gateway_it_answers_as_it_does_and_as_the_live_version_does(server, tmp_path):
    registry, posts = tmp_path / "registry", [post for post, _ in exchanges(6, seed=9)]
    add(registry, write_adapter(tmp_path / "adapter", 1, 0.08))
    given = settings(registry, server.url)
    with gateway(server.url, tmp_path, REGISTRY=str(registry)) as running:
        through = openai.OpenAI(base_url=running.url, api_key="none", max_retries=0)
        for expected in (MODEL, None):  # before a version is live, and after
            name = expected or read_live(registry).model
            direct = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0)
            for post in posts:
                asked = {"messages": [{"role": "user", "content": post}], "temperature": 0, "max_tokens": 24}
                own = direct.chat.completions.create(model=name, **asked).choices[0].message.content
                assert through.chat.completions.create(model="sdpo", **asked).choices[0].message.content == own
                chunks = through.chat.completions.create(model="sdpo", stream=True, **asked)
                assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == own
            if expected:
                moves.promote(given, "v0001")
        kept = list(running.store().conversations())
    assert [one.messages[0]["content"] for one in kept] == [post for _ in range(2) for post in posts for _ in range(2)]
    moves.rollback(given)


def test_a_version_that_does_not_fit_the_server_does_not_go_live(server, tmp_path):
    registry = tmp_path / "registry"
    add(registry, write_adapter(tmp_path / "small", 1, 0.08))
    add(registry, write_adapter(tmp_path / "large", 2, 0.08, rank=2 * LORA_RANK))
    given = settings(registry, server.url)
    moves.promote(given, "v0001")
    before = server.models()
    with pytest.raises(ServerError, match=r"pointer was not moved") as caught:
        moves.promote(given, "v0002")
    assert "--max-lora-rank" in str(caught.value) and "\n" not in str(caught.value)
    assert read_live(registry).version == "v0001" and server.models() == before
    moves.rollback(given)


def test_an_evaluation_gets_the_answers_of_adapters_that_were_loaded_while_it_serves(server, tmp_path):
    run = make_run(tmp_path / "run")
    write_adapter(run / "checkpoint-3", 5, 0.15)
    RunDirectory(run).mark_complete(3)
    body = {"lora_name": "checkpoint-3", "lora_path": str(run / "checkpoint-3")}
    assert server.post("/v1/load_lora_adapter", body)[0] == 200
    before = server.counters()
    evaluate(run, ckpts=3, answer_url=server.url, eval_temperature=0, concurrency=16)
    assert server.since(before)["requests"] == 2 * 16
    served = answered(run)
    shutil.rmtree(run / "eval")
    evaluate(run, ckpts=3, eval_temperature=0)
    local = answered(run)
    assert served["baseline"] != served["checkpoint-3"]
    for name in served:  # equal but where two tokens are as likely to the last digits
        assert sum(map(str.__eq__, served[name], local[name])) >= 15, (served[name], local[name])
    server.post("/v1/unload_lora_adapter", {"lora_name": "checkpoint-3"})


# Faults


def test_a_model_that_it_does_not_have_is_named_with_those_that_it_has(server):
    with pytest.raises(RequestRefused, match="nobody/nothing") as caught:
        client_of(server, "nobody/nothing").complete([Request([{"role": "user", "content": "Hi"}], 0.7, 16)])
    assert f"Valid aliases: {MODEL}" in str(caught.value) and "USER_MODEL_NAME_OR_PATH" in str(caught.value)


def test_what_is_too_long_for_its_context_is_refused_at_once_and_says_so(server):
    client, before = client_of(server), server.counters()
    long = [Request([{"role": "user", "content": "rain " * (2 * CONTEXT)}], 0.7, 16)] * 3
    with pytest.raises(RequestRefused, match="too long for it") as caught:
        client.complete(long)
    assert "MAX_PROMPT_TOKENS" in str(caught.value) and "rain rain" not in str(caught.value)
    assert server.since(before)["requests"] == 0


def test_a_limit_beyond_the_context_is_no_fault(server):
    """A judge that thinks is given 4096 tokens, whatever the context of its server is."""
    request = Request([{"role": "user", "content": "Hi"}], 0.0, 2 * CONTEXT)
    (reply,) = client_of(server).complete([request])
    assert reply.text and reply.tokens_out < CONTEXT


# Restarts. These tests are the last: the server is another one after the first, and ended after the second.


def test_a_run_whose_user_restarts_in_the_middle_of_a_step_loses_and_repeats_nothing(server, tmp_path):
    out, parts, part, steps = tmp_path / "run", 4, 16, 3
    per_step = parts * part
    command = job_command(
        server.url, out, user_model_name_or_path=MODEL, train_n=steps * per_step, bs=part, ga=parts,
        generation_batch=part, concurrency=4, eval_n=0, save_steps=50, simulator_wait=900, gradient_checkpointing=0,
    )  # fmt: skip
    with (tmp_path / "output").open("w") as output:
        job = subprocess.Popen(command, env=environment(), cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT)
    printed = (tmp_path / "output").read_text
    replies = out / "replies-0.jsonl"
    try:
        reached = PROBES + per_step + part + 2  # into the second part of the second step
        assert until(lambda: replied(replies) >= reached or job.poll() is not None, 600), printed()
        server.end(signal.SIGTERM)
        assert until(lambda: "does not respond" in printed(), 300), printed()
        assert reached <= replied(replies) < PROBES + 2 * per_step
        server.start(*THOUGHTS, *NO_BLANKS)
        assert job.wait(600) == 0, printed()
    finally:
        job.kill()
    rows = rows_of(replies)
    assert len(rows) == len({row["key"] for row in rows}) == PROBES + steps * per_step
    metrics = rows_of(out / "metrics.jsonl")
    assert [row["interactions"] for row in metrics] == [per_step, 2 * per_step, 3 * per_step]
    assert all(row["usable"] + row["empty"] == per_step for row in metrics)
    assert "step 1 is saved" in printed() and not (out / "checkpoint-1").exists()  # the last checkpoint replaced it
    assert (out / "checkpoint-3" / "complete.json").exists()
    assert printed().count("requesting the missing replies again") >= 1 and "Traceback" not in printed()


def test_versions_that_a_restart_unloaded_are_loaded_again(server, tmp_path):
    given = settings(tmp_path / "registry", server.url)
    for seed in (1, 2):
        add(given.registry, write_adapter(tmp_path / str(seed), seed, 0.1))
        moves.promote(given, None)
    live, expected = read_live(given.registry), own_answers(str(tmp_path / "2"))
    server.post("/v1/unload_lora_adapter", {"lora_name": live.model})  # as a restart does
    assert live.model not in server.models()
    moves.promote(given, "v0002")
    assert read_live(given.registry) == live and answers(server.url, live.model) == expected
    assert moves.rollback(given) == "v0001"
    moves.rollback(given)


def test_without_blanks_every_reply_has_the_form_of_its_schema(server):
    client = client_of(server)
    verdicts = verdicts_in_both_orders(ApiJudge(client), verdict_pairs())
    assert {label for pair in verdicts for label in pair} <= set("ABC") and client.usage.requests == 32
    assert all(json.loads(text).keys() == {"verdict"} for text in texts_of(client))
    again = verdicts_in_both_orders(ApiJudge(client_of(server)), verdict_pairs())
    assert sum(map(tuple.__eq__, verdicts, again)) >= 15  # at temperature 0
    user = SimulatedUser(client_of(server), personas()["no_emojis"], 0.7, 64, states_satisfaction=True)
    follow_ups = user.react(*zip(*exchanges(16), strict=True))
    assert all(follow_up.written.startswith('{"satisfied":') for follow_up in follow_ups)
    assert all(follow_up.satisfied in (True, False) for follow_up in follow_ups)


def test_a_reply_that_a_shutdown_cut_off_is_no_reply(server):
    """When it is asked to stop, vLLM answers some requests with 500 and leaves the others open until it has ended."""
    client, outcomes = client_of(server), []
    schema = {"type": "array", "items": {"type": "string", "enum": ["rain"]}, "minItems": 600}  # long for sure
    requests = [Request([{"role": "user", "content": f"Say it {n} times"}], 0.7, 1900, schema=schema) for n in range(4)]
    before = server.counters()
    asking = threading.Thread(target=lambda: outcomes.extend(client.complete(requests)))
    asking.start()
    assert until(lambda: server.since(before)["generated"] > 40, 300)
    server.end(signal.SIGTERM)
    asking.join(120)
    assert len(outcomes) == 4 and all(isinstance(outcome, ServerError) for outcome in outcomes)
    assert not texts_of(client)


def texts_of(client: Client) -> list[str]:
    """Return the replies that a client has."""
    return [reply.text for reply in client.cache._replies.values()]


def answered(run: Path) -> dict[str, list[str]]:
    """Return model -> its answers, in the order of the prompts, as the evaluation's page of pairs has them."""
    page = (run / "eval" / "pairs.html").read_text("utf-8")
    return json.loads(re.search(r'<script[^>]* id="data"[^>]*>(.*?)</script>', page, re.S)[1])["answers"]


def replied(path: Path) -> int:
    """Return the number of replies in a cache file."""
    return path.read_bytes().count(b"\n") if path.exists() else 0
