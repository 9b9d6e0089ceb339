"""The estimate before offline training runs a step as training will, and leaves no trace in it."""

import math

import pytest
import torch

from sdpo.train.offline.session import OfflineSession
from sdpo.train.offline.trainer import OfflineTrainer
from tests.training import session_of, write_interactions, write_model
from tests.worlds import rows_of

LORA = {"adapter": "lora", "lora_rank": 4, "lora_dropout": 0.2, "layout": "grouped"}


@pytest.fixture
def session(tmp_path):
    """Return a function that builds the session of a small run with this name."""
    data = {"model": write_model(tmp_path / "model"), "train_jsonl": write_interactions(tmp_path / "rows.jsonl")}
    return lambda name, **settings: session_of("train_offline", tmp_path / name, **data, **LORA, **settings)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_estimate_runs_a_step_as_training_does(session, monkeypatch, checkpointing):
    steps = []
    compute_loss = OfflineTrainer.compute_loss

    def watched(trainer, model, *arguments, **named):
        steps.append(set())
        hooks = [layer.register_forward_pre_hook(note) for layer in model.get_base_model().model.layers]
        try:
            return compute_loss(trainer, model, *arguments, **named)
        finally:
            for hook in hooks:
                hook.remove()

    def note(layer, _):
        checkpointed = layer.gradient_checkpointing and layer.training
        steps[-1].add((layer.training, checkpointed, torch.is_autocast_enabled("cpu")))

    monkeypatch.setattr(OfflineTrainer, "compute_loss", watched)
    session("run", precision="bf16", gradient_checkpointing=int(checkpointing)).run()
    assert len(steps) == 4 and all(step == steps[-1] for step in steps)  # two of the estimate, two of training
    assert (True, checkpointing, True) in steps[0]


def test_the_estimate_does_not_change_the_curve(session, monkeypatch, tmp_path):
    session("with", gradient_checkpointing=1).run()
    monkeypatch.setattr(OfflineSession, "_print_estimate", lambda *_: None)
    session("without", gradient_checkpointing=1).run()
    with_it, without = (rows_of(tmp_path / name / "metrics.jsonl") for name in ("with", "without"))
    assert len(with_it) == len(without) > 1
    assert all(math.isclose(a["loss"], b["loss"]) for a, b in zip(with_it, without, strict=True))
