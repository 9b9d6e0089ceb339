"""Stored answers (by weights, prompt and decoding settings), and adapters that are swapped on one base model."""

import json
import shutil

import pytest
import torch
from accelerate import PartialState
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from sdpo.evaluate.answers import Decoding, LocalAnswers
from sdpo.evaluate.models import EvaluatedModel, ModelCache, checkpoint_model, fingerprint
from sdpo.evaluate.store import Store, key_of
from sdpo.models import pretrained
from sdpo.text.prompts import SUMMARY_SYSTEM
from sdpo.tiny import MODEL_DIR
from tests.evaluations import add_checkpoint, evaluate, make_run

pytestmark = pytest.mark.slow


def make_adapter(folder, seed):
    """Write a LoRA adapter whose weights are far from zero."""
    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"]))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture
def loads(monkeypatch):
    """The sources of the full models loaded so far."""
    sources, real = [], pretrained.AutoModelForCausalLM.from_pretrained

    def recording(source, **named):
        sources.append(str(source))
        return real(source, **named)

    monkeypatch.setattr(pretrained.AutoModelForCausalLM, "from_pretrained", recording)
    return sources


IDS = torch.tensor([[5, 80, 200, 31, 7]])


def test_adapters_share_a_base_that_is_loaded_once_and_are_removed_again(tmp_path, loads):
    adapters = [checkpoint_model(n, make_adapter(tmp_path / f"checkpoint-{n}", n), str(MODEL_DIR)) for n in (1, 2)]
    assert [adapter.base for adapter in adapters] == [str(MODEL_DIR)] * 2
    base = EvaluatedModel("baseline", str(MODEL_DIR))
    expected = []
    for adapter in adapters:
        plain = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
        expected.append(PeftModel.from_pretrained(plain, adapter.source).eval()(IDS).logits)
    loads.clear()
    model_cache = ModelCache("fp32")
    with torch.no_grad():
        before = model_cache.load(base)(IDS).logits
        for adapter, logits in zip(adapters, expected, strict=True):
            assert torch.equal(model_cache.load(adapter)(IDS).logits, logits) and not torch.equal(before, logits)
        assert torch.equal(model_cache.load(adapters[1])(IDS).logits, expected[1])
        assert loads == [str(MODEL_DIR)] and model_cache.loads == 1
        assert torch.equal(model_cache.load(base)(IDS).logits, before)  # loaded again, without an adapter
    assert model_cache.loads == 2


def test_an_adapter_is_attached_whatever_its_model_is_named(tmp_path, loads):
    sources = [str(make_adapter(tmp_path / str(seed), seed)) for seed in (1, 2)]
    loads.clear()
    model_cache = ModelCache("fp32")
    logits = []
    with torch.no_grad():
        for name, source in zip(("after v1.2", "after ../v1.2"), sources, strict=True):  # folders' names, or paths
            logits.append(model_cache.load(EvaluatedModel(name, source, str(MODEL_DIR)))(IDS).logits)
    assert not torch.equal(*logits) and loads == [str(MODEL_DIR)]


def test_a_run_with_adapters_is_evaluated_with_one_model_load(tmp_path, loads):
    run = make_run(tmp_path / "run")
    for step in (3, 6):
        make_adapter(run / f"checkpoint-{step}", step)
        (run / f"checkpoint-{step}" / "complete.json").write_text("{}")
    loads.clear()
    report = evaluate(run, eval_n=4)
    assert loads == [str(MODEL_DIR)] and len(set(report["weights"].values())) == 3
    assert all(row["same"] < 4 for row in report["rows"])


def test_the_fingerprint_depends_on_the_contents_of_the_files_alone(tmp_path):
    run, known = make_run(tmp_path / "run"), Store(tmp_path, "weights")
    copy, moved = add_checkpoint(run, 1), add_checkpoint(run, 2, noise=0.01)
    base = fingerprint(EvaluatedModel("baseline", str(MODEL_DIR)), known)
    assert fingerprint(EvaluatedModel("a copy", str(copy)), known) == base
    changed = fingerprint(EvaluatedModel("changed", str(moved)), known)
    assert changed != base and fingerprint(EvaluatedModel("again", str(moved)), Store(tmp_path, "none")) == changed
    adapter = make_adapter(run / "checkpoint-3", 3)
    on_base, on_other = (fingerprint(checkpoint_model(3, adapter, str(on)), known) for on in (MODEL_DIR, moved))
    assert len({base, changed, on_base, on_other}) == 4
    shutil.copy(moved / "model.safetensors", copy / "model.safetensors")  # changed in place
    assert fingerprint(EvaluatedModel("a copy", str(copy)), known) == changed


def test_answers_are_generated_anew_when_the_settings_of_generation_change(tmp_path):
    """Under the same weights: a model whose end-of-sequence token was mended answers otherwise."""
    run = make_run(tmp_path / "run")
    folder = add_checkpoint(run, 3, noise=0.01)
    first = evaluate(run, eval_n=4)
    assert first["generated"] == {"baseline": 4, "checkpoint-3": 4}
    path = folder / "generation_config.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps(written | {"transformers_version": "0"}))
    assert evaluate(run, eval_n=4)["generated"] == {"baseline": 0, "checkpoint-3": 0}
    path.write_text(json.dumps(written | {"suppress_tokens": [5]}))
    changed = evaluate(run, eval_n=4)
    assert changed["generated"] == {"baseline": 0, "checkpoint-3": 4}
    assert changed["weights"]["checkpoint-3"] != first["weights"]["checkpoint-3"]
    path.write_text(json.dumps(written))
    assert evaluate(run, eval_n=4)["generated"] == {"baseline": 0, "checkpoint-3": 0}


def prompts(number):
    posts = [f"My {'very ' * (n % 5)}old dog ate my shoe {n} times." for n in range(number)]
    return [[{"role": "system", "content": SUMMARY_SYSTEM}, {"role": "user", "content": post}] for post in posts]


def test_answers_do_not_depend_on_which_others_are_stored(tmp_path):
    """With part of the answers lost, as after a kill, the missing ones are generated identically, even if sampled."""
    base = EvaluatedModel("baseline", str(MODEL_DIR))
    model_cache, decoding = ModelCache("fp32"), Decoding(12, 1.0, 7)

    def answers(name):
        source = LocalAnswers(Store(tmp_path, name), model_cache, PartialState(), decoding, 4)
        return source.of(base, "weights", prompts(18)), source.generated["baseline"]

    complete, number = answers("complete")
    assert number == 18 and len({answer.text for answer in complete}) > 9
    lines = (tmp_path / "complete-0.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "partial-0.jsonl").write_text("".join(lines[:7]) + lines[7][:20])
    resumed, number = answers("partial")
    assert resumed == complete and number == 11
    assert answers("partial") == (complete, 0)
    other_seed = LocalAnswers(Store(tmp_path, "complete"), model_cache, PartialState(), Decoding(12, 1.0, 8), 4)
    assert other_seed.of(base, "weights", prompts(18)) != complete and other_seed.generated["baseline"] == 18


values = st.dictionaries(st.text(max_size=5), st.lists(st.text(max_size=5), max_size=3), max_size=4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.lists(values, max_size=4), st.integers(0, 400))
def test_stored_values_survive_a_truncated_file(tmp_path, batches, cut):
    for path in tmp_path.glob("results-*"):
        path.unlink()
    store, expected = Store(tmp_path, "results"), {}
    for batch in batches:
        store.add(batch)
        expected = batch | expected  # a key keeps its first value
    path = tmp_path / "results-0.jsonl"
    assert all(Store(tmp_path, "results", 1)[key] == value for key, value in expected.items())
    content = path.read_bytes() if path.exists() else b""
    path.write_bytes(content[: max(0, len(content) - cut)])
    reopened = Store(tmp_path, "results")
    reopened.add({"new": ["value"]})
    last = Store(tmp_path, "results")
    assert all(last[key] == value for key, value in expected.items() if key in reopened and key != "new")
    assert "new" in last and all(json.loads(line) for line in path.read_bytes().splitlines())


def test_keys_depend_on_every_part():
    assert key_of("a", 1) == key_of("a", 1)
    assert len({key_of("a", 1), key_of("a", 2), key_of("a1"), key_of("a", "1"), key_of(["a"], 1)}) == 5
