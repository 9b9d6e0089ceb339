"""With PRECISION=bf16 every pass of a run computes in bf16, those before training too: what is compared is alike."""

from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
from torch import nn

from sdpo import HindsightTrainer
from tests.train.online.test_hindsight_trainer import config, dataset, no_emojis
from tests.training import session_of, write_interactions, write_model

pytestmark = pytest.mark.slow


def test_a_trainer_of_ones_own_does_so_too(tmp_path):
    seen = []

    def look(module: nn.Module, _: tuple) -> None:
        if isinstance(module, nn.Linear) and module.weight.dtype == torch.float32:
            seen.append(torch.is_autocast_enabled("cpu"))

    given = {"guard": "warn", "rehearsal": 1.0, "per_device_train_batch_size": 4, "max_steps": 1, "bf16": True}
    trainer = HindsightTrainer(
        str(write_model(tmp_path / "model")),
        no_emojis,
        args=config(tmp_path / "run", **given),
        train_dataset=dataset(4),
    )
    hook = nn.modules.module.register_module_forward_pre_hook(look)
    try:
        trainer.train()
    finally:
        hook.remove()
    assert seen and all(seen), f"{seen.count(False)} of {len(seen)} layers were computed in float32"


@pytest.mark.parametrize("adapter", ["none", "lora"])
@pytest.mark.parametrize("job", ["train_offline", "train_online_tldr"])
def test_answers_before_and_after_training_are_computed_in_bf16_as_training_is(tmp_path, job, adapter):
    seen, stage = defaultdict(list), ["training"]

    def look(module: nn.Module, _: tuple) -> None:
        if isinstance(module, nn.Linear) and module.weight.dtype == torch.float32:
            seen[stage[-1]].append(torch.is_autocast_enabled("cpu"))

    def followed(measure: Callable) -> Callable:
        def inside(first: object) -> object:
            stage.append(first if isinstance(first, str) else "start model")
            try:
                return measure(first)
            finally:
                stage.pop()

        return inside

    given = {"model": write_model(tmp_path / "model"), "adapter": adapter, "precision": "bf16", "eval_n": 4}
    given |= {"style": "no_emojis", "report_to": "none", "guard": "warn", "rehearsal": 1}
    if job == "train_offline":
        given["train_jsonl"] = write_interactions(tmp_path / "rows.jsonl")
    session = session_of(job, tmp_path / "run", **given)
    session.measure_answers = followed(session.measure_answers)
    session._answer_with_start_model = followed(session._answer_with_start_model)
    hook = nn.modules.module.register_module_forward_pre_hook(look)
    try:
        assert session.run()
    finally:
        hook.remove()
    del seen["training"]  # TRL lets an adapter generate outside of it
    assert set(seen) == {"start model", "before", "shown", "after"}
    assert {name: states.count(False) for name, states in seen.items() if not all(states)} == {}
