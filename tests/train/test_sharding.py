"""FSDP2 on a CPU, in one process: a policy that accelerate has wrapped trains as an unsharded one."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import Trainer, TrainingArguments

from sdpo.method.teacher import Teacher
from sdpo.train.arguments import training_arguments
from sdpo.train.checkpoint_sizes import size_of
from sdpo.train.results import print_results
from sdpo.train.sharding import move_before_wrapping
from tests.training import session_of, write_interactions, write_model
from tests.worlds import environment


@pytest.fixture(scope="module")
def found():
    """Return what the worker found; it is a process of its own because a process group belongs to the process."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.sharded_worker"],
        env=environment() | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("embeddings", ["tied", "untied"])
def test_forward_passes_without_gradient_do_not_change_the_steps(found, embeddings):
    assert found[embeddings] == {"sharded": True, "differing": []}


def test_a_first_pass_with_the_adapter_disabled_does_not_break_the_backward_pass(found):
    assert found["adapter"]["gradients"] and found["adapter"]["weights"] > 0


def test_generation_knows_that_all_processes_have_to_run_as_many_passes(found):
    assert found["synced"] and found["synced_adapter"]


def test_log_probabilities_are_not_rounded_to_bf16(found):
    assert found["rounded"] is False


@pytest.mark.parametrize("sharded", [True, False])
def test_a_policy_that_fsdp_will_shard_is_on_the_device_before_training(sharded):
    policy = torch.nn.Linear(2, 2)
    state = SimpleNamespace(fsdp_plugin=SimpleNamespace(fsdp_version=2) if sharded else None)
    move_before_wrapping(policy, SimpleNamespace(state=state, device=torch.device("meta")))
    assert policy.weight.device.type == ("meta" if sharded else "cpu")


def test_a_best_checkpoint_without_fsdps_own_file_is_not_loaded(tmp_path, capsys):
    data = {"model": write_model(tmp_path / "model"), "train_jsonl": write_interactions(tmp_path / "rows.jsonl")}
    run = session_of("train_offline", tmp_path / "run", guard="off", save_only_model=1, **data)
    run.run()
    best = tmp_path / "run" / "checkpoint-2"
    run.trainer.state.best_model_checkpoint = str(best)
    assert run.trainer.load_best()
    capsys.readouterr()
    run.trainer.is_fsdp_enabled = True  # a sharded policy cannot be trained here
    assert not run.trainer.load_best()
    assert "checkpoint-2 cannot be loaded into sharded weights" in capsys.readouterr().out
    figures = {"adherence": 0.5, "validity": 1.0, "mean_length": 3.0, "axes": {"emoji": 0.5}, "answers": 2}
    print_results(run.run_dir, {"before": figures, "style": None, "teacher": "live"})  # without "after"


def test_the_size_of_a_sharded_checkpoint_counts_the_weights_of_fsdps_own_file(tmp_path):
    policy = torch.nn.Linear(2, 2)
    teacher = Teacher("live", policy)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    alone, sharded = (size_of(policy, teacher, arguments, flag).weights for flag in (False, True))
    assert sharded == 2 * alone > 0
    arguments.save_only_model = True
    assert size_of(policy, teacher, arguments, True).weights == alone


@pytest.mark.parametrize("sharded", [True, False])
def test_gradients_are_sharded_after_each_micro_batch(sharded, tmp_path, monkeypatch):
    data = {"model": write_model(tmp_path / "model"), "train_jsonl": write_interactions(tmp_path / "rows.jsonl")}
    settings = session_of("train_offline", tmp_path / "run", guard="off", **data).settings
    monkeypatch.setenv("ACCELERATE_USE_FSDP", str(sharded).lower())
    shared = training_arguments(settings)
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    trainer = Trainer(torch.nn.Linear(2, 2), TrainingArguments(**shared))
    assert trainer.accelerator.gradient_state.plugin_kwargs.get("sync_each_batch", False) is sharded
