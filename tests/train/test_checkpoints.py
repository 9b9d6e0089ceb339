"""Checkpoints whose files are no longer as they were written: the run goes on from the one before, and says so."""

import errno
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from sdpo.evaluate.trained_run import TrainedRun
from sdpo.runtime.checkpoint_files import COMPLETE, damage
from sdpo.runtime.run_directory import RunDirectory
from sdpo.train.teacher_weights import save_teacher
from tests.training import OFFLINE, session_of, weights_of, write_interactions, write_model
from tests.worlds import curve, rows_of

pytestmark = pytest.mark.slow

STEPS = 4
KINDS = [("train_offline", "lora"), ("train_online_tldr", "none")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a random model and logged interactions."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write_model(folder / "model")
    write_interactions(folder / "logs.jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        yield folder


def session(folder: Path, name: str, job: str, adapter: str, **more):
    data = {"train_jsonl": folder / "logs.jsonl"} if job in OFFLINE else {}
    settings = {"adapter": adapter, "teacher": "ema", "train_n": 4 * STEPS, "save_steps": 1, "guard": "off"} | more
    return session_of(job, folder / name, model=folder / "model", **data, **settings)


@pytest.fixture(scope="module", params=KINDS, ids=["-".join(kind) for kind in KINDS])
def complete(request, folder):
    """Return job, adapter, folder and final weights of a run that was not interrupted."""
    job, adapter = request.param
    name = f"run-{KINDS.index(request.param)}"
    run = session(folder, name, job, adapter)
    assert run.run()
    return job, adapter, folder / name, weights_of(run.trainer.model)


def interrupted(run: Path, name: str, after: int = 3) -> Path:
    """Return a copy of the run as a kill after this step leaves it; its path is as long as the run's."""
    copy = run.with_name(f"{run.name[-1]}{name}")
    assert len(copy.name) == len(run.name)
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns(".lock"))
    for file in ("summary.json", "README.md", "training.png"):
        (copy / file).unlink()
    for step in range(after + 1, STEPS + 1):
        shutil.rmtree(copy / f"checkpoint-{step}")
    return copy


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def weights_file(adapter: str) -> str:
    return "model.safetensors" if adapter == "none" else "adapter_model.safetensors"


def damaged(checkpoint: Path, what: str, adapter: str) -> str:
    """Damage a file of the checkpoint and return the file's name."""
    verb, name = what.split()
    path = checkpoint / (weights_file(adapter) if name == "weights" else name)
    if verb == "overwritten":
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 64] = bytes(byte ^ 255 for byte in content[middle : middle + 64])
        path.write_bytes(content)
    else:
        cut(path) if verb == "cut" else path.unlink()
    return path.name


WHAT = [
    *("cut optimizer.pt", "cut weights", "no trainer_state.json", "no scheduler.pt", "no rng_state.pth"),
    *("no optimizer.pt", "no weights", "cut trainer_state.json", "cut rng_state.pth", "cut complete.json"),
    *("cut teacher/weights.safetensors", "no teacher/weights.safetensors"),
    *("overwritten optimizer.pt", "overwritten rng_state.pth"),
]


@pytest.mark.parametrize("what", WHAT)
def test_damage_is_seen_and_named(what, complete):
    _, adapter, run, _ = complete
    copy = interrupted(run, f"s-{WHAT.index(what):02}")
    assert [damage(folder) for folder in RunDirectory(copy).checkpoints().values()] == ["", "", ""]
    name = damaged(copy / "checkpoint-3", what, adapter)
    assert name in damage(copy / "checkpoint-3")
    # An evaluation needs the weights alone.
    needed = name in (weights_file(adapter), COMPLETE)
    assert list(TrainedRun(copy).checkpoints()) == ([1, 2] if needed else [1, 2, 3])
    shutil.rmtree(copy)


@pytest.mark.parametrize("what", [what for what in WHAT if "complete" not in what and "no teacher" not in what])
def test_damage_is_seen_in_checkpoints_without_recorded_sizes(what, complete):
    _, adapter, run, _ = complete
    copy = interrupted(run, f"o-{WHAT.index(what):02}")
    checkpoint = copy / "checkpoint-3"
    (checkpoint / COMPLETE).write_text(json.dumps({"step": 3, "processes": 1}))
    assert damage(checkpoint) == ""
    damaged(checkpoint, what, adapter)
    if "teacher" not in what:  # not every run has one
        assert damage(checkpoint)
    shutil.rmtree(copy)


@pytest.mark.parametrize("what", ["cut optimizer.pt", "no scheduler.pt", "no rng_state.pth"])
def test_a_run_goes_on_from_the_checkpoint_before_to_the_same_weights(what, complete, capsys):
    job, adapter, run, expected = complete
    copy = interrupted(run, f"g-{WHAT.index(what):02}")
    name = damaged(copy / "checkpoint-3", what, adapter)
    resumed = session(copy.parent, copy.name, job, adapter)
    printed = capsys.readouterr().out
    assert f"damaged-checkpoint-3: {name}" in printed and "the checkpoint before it" in printed
    assert "after step 2" in printed
    assert resumed.run()
    assert curve(copy) == curve(run)
    for weight_name, weight in weights_of(resumed.trainer.model).items():
        assert torch.equal(weight, expected[weight_name]), weight_name
    assert sorted(path.name for path in copy.glob("*checkpoint-*")) == [
        *(f"checkpoint-{step}" for step in range(1, STEPS + 1)),
        "damaged-checkpoint-3",
    ]


def test_without_a_whole_checkpoint_the_run_begins_again(complete, capsys):
    job, adapter, run, expected = complete
    copy = interrupted(run, "both", after=2)
    for step in (1, 2):
        damaged(copy / f"checkpoint-{step}", "cut weights", adapter)
    resumed = session(copy.parent, copy.name, job, adapter)
    assert "the run goes on from the start" in capsys.readouterr().out
    assert resumed.run() and len(rows_of(copy / "metrics.jsonl")) == STEPS
    assert all(torch.equal(weight, expected[name]) for name, weight in weights_of(resumed.trainer.model).items())


class Terminated(TrainerCallback):
    """Sends SIGTERM during step 5."""

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 4:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(("job", "adapter"), KINDS)
def test_an_interrupted_run_ends_with_the_checkpoints_of_one_that_is_not(job, adapter, folder):
    settings = {"train_n": 24, "save_steps": 2, "save_limit": 2}
    before, names = signal.getsignal(signal.SIGTERM), [f"{start}-{adapter}" for start in ("whole", "split")]
    whole, split = (folder / name for name in names)
    assert session(folder, whole.name, job, adapter, **settings).run()
    try:
        first = session(folder, split.name, job, adapter, **settings)
        first.trainer.add_callback(Terminated())
        assert not first.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    # The one of the interruption displaces none: with SAVE_LIMIT=2 the run still keeps two of SAVE_STEPS.
    assert list(RunDirectory(split).checkpoints()) == [2, 4, 5]
    first.run_dir.unlock()
    assert session(folder, split.name, job, adapter, **settings).run()
    assert list(RunDirectory(split).checkpoints()) == list(RunDirectory(whole).checkpoints()) == [4, 6]
    for step in (4, 6):
        files = [run / f"checkpoint-{step}" / weights_file(adapter) for run in (whole, split)]
        assert files[0].read_bytes() == files[1].read_bytes()


class BestIs(TrainerCallback):
    """Stands in for the guard: calls the checkpoint of this step the best one."""

    def __init__(self, step):
        self.step = step

    def on_save(self, args, state, control, **_):
        if state.global_step == self.step:
            state.best_model_checkpoint = f"{args.output_dir}/checkpoint-{state.global_step}"


def first_of(run, callback):
    """Put a callback before those of the run, where the guard stands too."""
    run.trainer.callback_handler.callbacks.insert(0, callback)
    return run


@pytest.mark.parametrize(("job", "adapter"), KINDS)
def test_with_a_limit_of_one_the_last_checkpoint_stays_beside_the_best(job, adapter, folder):
    settings = {"train_n": 24, "save_steps": 2, "save_limit": 1}
    assert first_of(session(folder, f"one-{adapter}", job, adapter, **settings), BestIs(2)).run()
    assert list(RunDirectory(folder / f"one-{adapter}").checkpoints()) == [2, 6]
    before = signal.getsignal(signal.SIGTERM)
    try:
        stopped = first_of(session(folder, f"stopped-{adapter}", job, adapter, **settings), BestIs(2))
        stopped.trainer.add_callback(Terminated())
        assert not stopped.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    run = RunDirectory(folder / f"stopped-{adapter}")
    assert list(run.checkpoints()) == [2, 5]


def test_a_full_disk_at_the_teachers_weights_leaves_the_checkpoint_before(folder, monkeypatch):
    run = session(folder, "full", "train_offline", "lora", save_steps=2, save_limit=1, train_n=24)
    saved = []

    def full(*given):
        saved.append(given)
        if len(saved) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return save_teacher(*given)

    monkeypatch.setattr("sdpo.train.callbacks.save_teacher", full)
    with pytest.raises(OSError, match="No space"):
        run.run()
    assert list(RunDirectory(folder / "full").checkpoints()) == [2]


def test_a_kill_before_an_interim_checkpoint_is_removed_leaves_it_to_the_next_start(tmp_path):
    run = RunDirectory(tmp_path)
    for step, interim in ((2, False), (3, True), (4, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        run.mark_complete(step, interim=interim)
    assert [path.name for path in run.interim_checkpoints()] == ["checkpoint-3"]
    run.remove_old_interim_checkpoints()
    assert list(run.checkpoints()) == [2, 4]
    (tmp_path / "checkpoint-5").mkdir()
    run.mark_complete(5, interim=True)
    run.remove_old_interim_checkpoints()
    assert list(run.checkpoints()) == [2, 4, 5]  # the last one is where the run goes on
