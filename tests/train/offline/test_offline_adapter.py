"""Offline training of an adapter: the recommended recipe, a stop by the guard, a model whose tokenizer lacks much."""

import json

import pytest
import torch
from safetensors.torch import load_file

from sdpo.errors import GuardStopped
from sdpo.tiny import MODEL_DIR
from tests.training import moved, session_of, weights_of, write_interactions, write_model
from tests.worlds import rows_of

pytestmark = pytest.mark.slow


@pytest.fixture
def logs(tmp_path, monkeypatch):
    """Return a file of logged interactions; nothing is tracked."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    return write_interactions(tmp_path / "logs.jsonl", 48)


def test_the_recommended_recipe_trains_an_adapter(logs, tmp_path):
    given = {"recipe": "recommended", "train_n": 32, "eval_n": 4, "eval_batch_size": 4, "merge_adapter": 1}
    run = session_of("train_offline", tmp_path / "run", model=MODEL_DIR, train_jsonl=logs, **given)
    assert (run.settings.adapter, run.settings.learn_from, run.settings.null_contrast) == ("lora", "complaints", True)
    before = weights_of(run.trainer.model)
    assert run.run()
    assert moved(before, run.trainer.model) == {name for name in before if "lora_" in name} != set()
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["finished"] and {"before", "shown", "after"} <= set(summary)
    assert summary["before"]["fluency"] < 0 and (tmp_path / "run" / "merged" / "model.safetensors").exists()


def test_the_guard_stops_an_adapter_and_its_last_healthy_checkpoint_is_loaded(logs, tmp_path):
    model = write_model(tmp_path / "model")
    given = {"adapter": "lora", "train_n": 48, "epochs": 2, "save_steps": 1, "lr": 0.3, "warmup": 0.5}
    run = session_of("train_offline", tmp_path / "run", model=model, train_jsonl=logs, **given)
    with pytest.raises(GuardStopped):
        run.run()
    assert rows_of(tmp_path / "run" / "guard.jsonl")[-1]["level"] == 2
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    best = tmp_path / "run" / summary["best_checkpoint"]
    weights = weights_of(run.trainer.model)
    for name, weight in load_file(best / "adapter_model.safetensors").items():
        assert torch.equal(weight, weights[name.replace(".weight", ".default.weight")]), name


def test_a_tokenizer_without_padding_and_with_another_end_trains_and_is_saved_whole(logs, tmp_path):
    model = write_model(tmp_path / "model")
    path = model / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"eos_token": "<|endoftext|>"}
    path.write_text(json.dumps({name: value for name, value in config.items() if name != "pad_token"}))
    given = {"adapter": "lora", "eval_n": 4, "eval_batch_size": 4, "style": "short", "merge_adapter": 1}
    run = session_of("train_offline", tmp_path / "run", model=model, train_jsonl=logs, **given)
    end = run.tokenizer.convert_tokens_to_ids("<|im_end|>")
    rows = run.trainer.train_dataset
    assert {ids[-1] for ids, cut in zip(rows["completion"], rows["completion_cut"], strict=True) if not cut} == {end}
    assert run.run()
    for folder in ("checkpoint-2", "merged"):
        saved = json.loads((tmp_path / "run" / folder / "tokenizer_config.json").read_text())
        assert saved["eos_token"] == saved["pad_token"] == "<|im_end|>"
    ends = json.loads((tmp_path / "run" / "merged" / "generation_config.json").read_text())["eos_token_id"]
    assert end in (ends if isinstance(ends, list) else [ends])
