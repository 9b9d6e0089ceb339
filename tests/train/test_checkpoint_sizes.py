"""What is said of checkpoints before the first step is what they take, and weights alone are not resumed."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub.utils import filter_repo_objects
from torch import nn
from transformers import TrainingArguments

from sdpo.errors import RunError, SettingError
from sdpo.method.teacher import Teacher
from sdpo.plan.plan import plan_of
from sdpo.runtime.disk import CheckpointSize, number_of_checkpoints
from sdpo.train import checkpoint_sizes
from sdpo.train.checkpoint_sizes import forecast, size_of
from sdpo.train.publish import MODEL_FILES
from tests.training import session_of, write_interactions, write_model


@pytest.mark.slow
@pytest.mark.parametrize("only_model", [False, True], ids=["complete", "weights alone"])
def test_a_checkpoint_takes_what_was_said_and_weights_alone_are_not_resumed(only_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    write_model(tmp_path / "model")
    write_interactions(tmp_path / "logs.jsonl")

    def session(train_n: int = 12):
        return session_of(
            "train_offline", tmp_path / "run", model=tmp_path / "model",
            train_jsonl=tmp_path / "logs.jsonl", teacher="ema", train_n=train_n, save_steps=2, guard="off",
            save_only_model=only_model,
        )  # fmt: skip

    run = session()
    assert run.run()
    said = re.search(r"checkpoints: (\d+) of .*", capsys.readouterr().out)
    folders = sorted((tmp_path / "run").glob("checkpoint-*"))
    assert said and int(said[1]) == len(folders) == 2
    assert ("weights alone" in said[0]) == only_model
    names = {path.relative_to(folders[0]).as_posix() for path in folders[0].rglob("*")}
    assert ("optimizer.pt" in names) == ("teacher/weights.safetensors" in names) == (not only_model)
    uploaded = set(filter_repo_objects(names, allow_patterns=[*MODEL_FILES]))
    assert {name for name in uploaded if name.endswith(".safetensors")} == {"model.safetensors"}
    size = size_of(run.trainer.model, run.teacher, run.trainer.args)
    planned = plan_of(run.settings).disk
    assert planned.size == size and planned.checkpoints == len(folders)
    large = [path for path in folders[0].rglob("*") if path.suffix in (".safetensors", ".pt")]
    written = sum(path.stat().st_size for path in large if "rng" not in path.name and "scheduler" not in path.name)
    assert size.total == pytest.approx(written, rel=0.1)
    (tmp_path / "run" / "summary.json").unlink()
    run.run_dir.unlock()
    if only_model:
        with pytest.raises(RunError, match=r"cannot be resumed\. To train on .* give MODEL="):
            session()
    else:
        session()


@pytest.mark.slow
def test_a_disk_without_room_for_one_checkpoint_ends_the_run_before_its_first_step(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(checkpoint_sizes.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    write_model(tmp_path / "model")
    write_interactions(tmp_path / "logs.jsonl")
    run = session_of(
        "train_offline", tmp_path / "run", model=tmp_path / "model", train_jsonl=tmp_path / "logs.jsonl", guard="off"
    )
    with pytest.raises(SettingError, match=r"a checkpoint takes [\d.]+ MB, and 0\.0 MB of disk are free for .*/run\. "):
        run.run()
    assert run.trainer.state.global_step == 0


def test_the_number_of_checkpoints():
    assert [number_of_checkpoints(*given) for given in ((9, 0, 3), (10, 0, 3), (10, 6, 3), (2, 0, 3))] == [3, 4, 2, 1]


def test_8_bit_adamw_keeps_the_embedding_and_small_weights_in_32_bits(tmp_path):
    policy = nn.Sequential(nn.Embedding(20_000, 64), nn.Linear(64, 256))
    arguments = TrainingArguments(output_dir=str(tmp_path), optim="adamw_bnb_8bit", use_cpu=True)
    assert size_of(policy, Teacher("live", policy), arguments).optimizer == 8 * (20_000 * 64 + 256) + 2 * 64 * 256


def test_too_small_a_disk_is_said_with_what_to_set(tmp_path: Path):
    size = CheckpointSize(weights=32 * 10**9, optimizer=16 * 10**9, teacher=0)
    arguments = TrainingArguments(output_dir=str(tmp_path), save_steps=3, use_cpu=True)
    text = forecast(size, 22, arguments, free=100 * 10**9)
    assert text.startswith(
        "checkpoints: 22 of 48.0 GB (weights 32.0 GB, optimizer 16.0 GB), one every 3 steps, 1,056.0 GB"
    )
    assert "only 100.0 GB" in text and "SAVE_LIMIT=2" in text and "SAVE_ONLY_MODEL=1" in text
    text = forecast(size, 22, arguments, free=200 * 10**9, limit=2)
    assert "at most 192.0 GB at a time" in text and "warning" not in text
