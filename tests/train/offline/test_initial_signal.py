"""The signal before training: what MIN_SIGNAL, WEIGHT_BY_SIGNAL and a frozen teacher that is run once make of it."""

import json

import pytest
import torch
from torch import nn

from sdpo.train.offline.initial_signal import FILE
from tests.training import session_of, write_interactions, write_model


@pytest.fixture
def given(tmp_path, monkeypatch) -> dict:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    model, rows = write_model(tmp_path / "model"), write_interactions(tmp_path / "rows.jsonl")
    return {"model": model, "train_jsonl": rows, "train_n": 24}


def test_the_weights_of_the_rows_that_are_trained_have_a_mean_of_one(given, tmp_path):
    sizes: list[float] = []
    for name, share in (("all", 0.0), ("half", 0.5)):
        least = sorted(sizes)[int(share * len(sizes))] if share else 0.0
        session = session_of("train_offline", tmp_path / name, min_signal=least, weight_by_signal=1, **given)
        sizes = [json.loads(line)["signal_size"] for line in (tmp_path / name / FILE).read_text().splitlines()]
        weights = session.trainer.train_dataset["weight"]
        assert len(weights) == sum(size >= least for size in sizes) and max(weights) > min(weights)
        assert sum(weights) / len(weights) == pytest.approx(1.0)


def test_a_teacher_that_is_run_once_computes_as_training_does(given, tmp_path):
    seen = []

    def look(module: nn.Module, _: tuple) -> None:
        if isinstance(module, nn.Linear) and module.weight.dtype == torch.float32:
            seen.append(torch.is_autocast_enabled("cpu"))

    of_token = {"objective": "token", "teacher": "frozen", "null_contrast": 0}
    hook = nn.modules.module.register_module_forward_pre_hook(look)
    try:
        session = session_of("train_offline", tmp_path / "run", precision="bf16", epochs=2, **given | of_token)
    finally:
        hook.remove()
    assert "teacher_logps" in session.trainer.train_dataset.column_names
    assert seen and all(seen), f"{seen.count(False)} of {len(seen)} layers were computed in float32"
