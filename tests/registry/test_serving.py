"""`transformers serve` answers with the version that is live, and after a rollback as before, to the token."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from sdpo.llm.health import check_health
from sdpo.llm.server import end_with_parent
from sdpo.registry import moves, versions
from sdpo.registry.live import read_live
from sdpo.registry.serving import served_folder
from sdpo.tiny import MODEL_DIR
from sdpo.tiny.data import posts
from tests.registries import add, settings, write_adapter
from tests.worlds import environment

MESSAGES = [[{"role": "user", "content": post.prompt}] for post in posts(3, seed=9, held=True, name="post")]


@contextmanager
def folder_server(folder):
    """Run `transformers serve` without a model of its own, and yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", "--device", "cpu", "--port", str(port)]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--reasoning", "off"], env=environment(CUDA_VISIBLE_DEVICES=""), stdout=log, stderr=log,
            preexec_fn=end_with_parent(),
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(300):
            time.sleep(0.1)
            try:
                check_health(url)
                break
            except Exception:
                assert process.poll() is None, (folder / "serve.log").read_text()[-2000:]
        yield url
    finally:
        process.terminate()
        process.wait(20)


def answers(url, model):
    texts = []
    for messages in MESSAGES:
        body = {"model": model, "messages": messages, "max_tokens": 24, "temperature": 0}
        request = urllib.request.Request(
            f"{url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            texts.append(json.load(response)["choices"][0]["message"]["content"])
    return texts


def own_answers(adapter=None):
    """Return the greedy answers of the model loaded here."""
    tokenizer, model = AutoTokenizer.from_pretrained(MODEL_DIR), AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    model = PeftModel.from_pretrained(model, adapter).eval() if adapter else model.eval()
    texts = []
    for messages in MESSAGES:
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, enable_thinking=False, return_tensors="pt", return_dict=True
        )["input_ids"]
        with torch.inference_mode():
            out = model.generate(input_ids=ids, max_new_tokens=24, do_sample=False)
        texts.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    return texts


@pytest.mark.slow
def test_the_server_answers_as_the_live_version_and_after_a_rollback_as_before(tmp_path):
    registry = tmp_path / "registry"
    for seed, size in ((1, 0.08), (2, 0.15)):
        add(registry, write_adapter(tmp_path / str(seed), seed, size))
    expected = [own_answers(), own_answers(str(tmp_path / "1")), own_answers(str(tmp_path / "2"))]
    assert len(set(map(tuple, expected))) == 3
    with folder_server(tmp_path) as url:
        given = settings(registry, url)
        for name, own in (("v0001", expected[1]), ("v0002", expected[2])):
            moves.promote(given, name)
            assert answers(url, read_live(registry).model) == own
        assert moves.rollback(given) == "v0001" and answers(url, read_live(registry).model) == expected[1]
        assert moves.rollback(given) is None and answers(url, read_live(registry).model) == expected[0]
        # A folder of links that somebody damaged is made anew.
        (registry / "versions" / "v0001" / "served" / "config.json").unlink()
        version = versions.read(registry, "v0001")
        assert (Path(served_folder(registry, version)) / "config.json").exists()
