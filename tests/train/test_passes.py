"""With ITERATIONS a checkpoint is written after the last pass over a batch of answers: runs go on from it exactly."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from sdpo import HindsightTrainer
from sdpo.runtime.run_directory import RunDirectory
from tests.train.online.test_hindsight_trainer import config, dataset, no_emojis
from tests.training import session_of, weights_of, write_model

BATCHES, PASSES = 5, 2
STEPS = BATCHES * PASSES
GIVEN = {"iterations": PASSES, "save_steps": 3, "train_n": 4 * BATCHES, "guard": "off", "lr_schedule": "linear"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("passes") / "model")


@pytest.fixture(scope="module", params=[1, 2], ids=["GA=1", "GA=2"])
def complete(request, model):
    """Return the number of micro-batches, the folder and the final weights of a run that was not interrupted."""
    folder = model.with_name(f"run-{request.param}")
    run = session(folder, model, request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        assert run.run()
    return request.param, folder, weights_of(run.trainer.model)


def session(folder: Path, model: Path, ga: int, **more):
    return session_of("train_online_tldr", folder, model=model, bs=4 // ga, ga=ga, **{**GIVEN, **more})


def copied(folder: Path, *left_out: str) -> Path:
    """Return a copy of a run as a kill leaves it: not locked, without its end and the checkpoints that are left out."""
    copy = folder.with_name(f"{folder.name}-copy")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns(".lock", "summary.json", *left_out))
    return copy


def interactions(folder: Path) -> list[int]:
    return [row["interactions"] for row in RunDirectory(folder).read_rows("metrics.jsonl")]


def test_checkpoints_are_written_after_the_last_pass(complete):
    _, folder, _ = complete
    assert interactions(folder) == [4 * (step // PASSES + 1) for step in range(STEPS)]
    # Due after steps 3, 6, 9 and the last one.
    assert list(RunDirectory(folder).checkpoints()) == [4, 6, 10]


def test_a_killed_run_goes_on_to_the_same_interactions_and_weights(complete, model, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    ga, folder, expected = complete
    copy = copied(folder, "checkpoint-6", "checkpoint-10")
    resumed = session(copy, model, ga)
    assert resumed.run()
    assert interactions(copy) == interactions(folder)
    assert list(RunDirectory(copy).checkpoints()) == [4, 6, 10]
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(resumed.trainer.model).items())


class StopAt(TrainerCallback):
    """Asks the run to stop during a step, as SIGTERM does."""

    def __init__(self, run, step: int) -> None:
        self.run, self.step = run, step

    def on_step_begin(self, args, state, control, **_) -> None:
        self.run.stop.requested |= state.global_step + 1 == self.step


@pytest.mark.parametrize(("step", "stopped"), [(3, 4), (4, 4), (7, 8)])
def test_a_run_that_is_asked_to_stop_between_two_passes_stops_after_the_last(
    complete, model, step, stopped, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    ga, folder, expected = complete
    run = session(tmp_path / "run", model, ga)
    run.trainer.add_callback(StopAt(run, step))
    assert not run.run() and run.trainer.state.global_step == stopped
    assert ("stopping after the next step" in capsys.readouterr().out) == (step != stopped)
    copy = copied(tmp_path / "run")
    resumed = session(copy, model, ga)
    assert resumed.run() and interactions(copy) == interactions(folder)
    # One that was written because the run stopped is removed again, one of SAVE_STEPS stays.
    assert list(RunDirectory(copy).checkpoints()) == [4, 6, 10]
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(resumed.trainer.model).items())


def test_a_checkpoint_of_an_earlier_version_between_two_passes_keeps_the_order_of_the_prompts(
    complete, model, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    ga, _, _ = complete
    run = session(tmp_path / "run", model, ga)
    monkeypatch.setattr(type(run.trainer), "is_between_passes", False)
    run.trainer.add_callback(StopAt(run, 3))
    assert not run.run()
    earlier = copied(tmp_path / "run")
    assert list(RunDirectory(earlier).checkpoints()) == [3]
    monkeypatch.undo()
    monkeypatch.setenv("WANDB_MODE", "disabled")
    capsys.readouterr()
    assert session(earlier, model, ga).run()
    assert "note: checkpoint-3 was written between two passes over the same answers" in capsys.readouterr().out
    # The second batch is answered once more, for its second pass; all others get two passes.
    counts = [0, *interactions(earlier)]
    assert [after - before for before, after in pairwise(counts)] == [4, 0, 4, 4, *[4, 0] * 3]


def test_a_trainer_of_ones_own_goes_on_exactly_too(model, tmp_path):
    def trainer(folder: Path, **given) -> HindsightTrainer:
        values = {
            "num_iterations": 2,
            "save_steps": 3,
            "per_device_train_batch_size": 4,
            "max_steps": 8,
            "guard": "off",
        }
        values |= {"save_strategy": "steps"}
        args = config(folder, **values, **given)
        return HindsightTrainer(str(model), no_emojis, args=args, train_dataset=dataset(16))

    whole = trainer(tmp_path / "whole")
    whole.train()
    assert {path.name for path in (tmp_path / "whole").glob("checkpoint-*")} == {f"checkpoint-{n}" for n in (4, 6, 8)}
    shutil.copytree(tmp_path / "whole", tmp_path / "cut", ignore=shutil.ignore_patterns("checkpoint-6", "checkpoint-8"))
    again = trainer(tmp_path / "cut")
    again.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-4"))
    expected = weights_of(whole.model)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(again.model).items())
