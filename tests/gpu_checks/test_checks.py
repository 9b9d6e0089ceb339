"""The checks themselves, on a CPU: they pass by the command, and they fail when what they check does not hold."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sdpo.gpu_checks import rows
from sdpo.gpu_checks.job import RESULTS
from sdpo.gpu_checks.outcome import CheckFailed, Place
from sdpo.gpu_checks.random_models import SHAPES, forward_flops, random_model, random_rows, step_flops
from sdpo.gpu_checks.resuming import TOLERANCE
from sdpo.gpu_checks.runs import change, check_all_trained, check_steps, weights
from sdpo.gpu_checks.shapes import check_4b
from sdpo.method.scoring import find_head, score
from sdpo.tiny import MODEL_DIR
from tests.commands import clean_environment


@pytest.mark.slow
def test_the_command_runs_on_a_cpu_what_can_run_there(tmp_path):
    names = ["device", "lora", "fsdp2"]
    command = [sys.executable, "-m", "jobs.check_gpu", "--checks", " ".join(names), "--output-dir", str(tmp_path / "o")]
    environment = clean_environment(CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "o" / RESULTS).read_text())
    results = {result["name"]: result for result in content["checks"]}
    assert [results[name]["status"] for name in names] == ["passed", "passed", "not run"]
    assert content["device"]["kind"] == "cpu" and content["versions"]["torch"] == torch.__version__
    assert results["lora"]["figures"]["adapted_layers"] == 28
    assert "2 passed, 0 failed, 1 not run" in done.stdout


def test_a_shape_has_its_speed_and_memory(tmp_path):
    figures = check_4b(Place("cpu", tmp_path))
    assert figures.pop("shape") == "small"
    assert set(figures) == {"lora", "all weights"}
    for kind, values in figures.items():
        memory = values["memory_gb"]
        assert memory["weights"] == pytest.approx(4e-9 * memory["parameters"])
        assert memory["gradients"] == pytest.approx(4e-9 * memory["trained_parameters"])
        # Two float32 moments a weight, and the number of steps of each tensor.
        assert memory["optimizer"] == pytest.approx(2 * memory["gradients"], rel=1e-2)
        assert (memory["trained_parameters"] == memory["parameters"]) == (kind == "all weights")
        for objective in ("token", "full"):
            assert values[objective]["tokens_per_second"] > 0 and values[objective]["tflops"] > 0
        assert values["generation"]["tokens_per_second"] > 0


@pytest.mark.parametrize(("shape", "billions"), [("0.6b", 0.596), ("4b", 4.022), ("8b", 8.191)])
def test_the_shapes_have_the_published_numbers_of_parameters(shape, billions):
    model = random_model(shape, torch.bfloat16, "meta")
    assert sum(weight.numel() for weight in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.001)
    assert set(SHAPES) == {"0.6b", "4b", "8b", "small"}


def test_operations_are_those_that_torch_counts():
    model = random_model("small", torch.float32, "cpu", attention="eager")
    row = random_rows([(20, 12)], 5, 512)
    context, completion = row.contexts[0], row.completions[0]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        score(model, [context.prompt], [completion])
    layers, attention, head = forward_flops(model, 32, 12)
    # Eager attention computes the half above the diagonal too.
    assert counter.get_total_flops() == layers + 2 * attention + head
    trained, adapted = (step_flops(model, row, trains_all) for trains_all in (True, False))
    assert trained - adapted == pytest.approx(layers + head)
    assert row.tokens == 32 and context.hindsight[-20:] == context.prompt and len(context.hindsight) == 25


def test_rows_that_attend_to_each_other_fail_the_check(tmp_path, monkeypatch):
    def packs_whatever(model):
        find_head(model).packs_rows = True
        return True

    original = rows.AutoModelForCausalLM.from_pretrained

    def without_positions(*arguments, **named):
        model = original(*arguments, **named)
        forward = model.forward
        model.forward = lambda **inputs: forward(**{**inputs, "position_ids": None})
        return model

    monkeypatch.setattr(rows, "pack_rows", packs_whatever)
    monkeypatch.setattr(rows.AutoModelForCausalLM, "from_pretrained", without_positions)
    with pytest.raises(CheckFailed, match=r"packed rows score .* nats off in float32"):
        rows.check_scores(Place("cpu", tmp_path))


def write_metrics(out, **values):
    out.mkdir()
    row = {"loss": 0.5, "signal_size": 0.1, "entropy": 0.2, "seconds": {"training": 1.0}, "peak_memory_gb": 1.0}
    lines = [json.dumps({"step": step} | row | values) for step in (1, 2, 3, 4)]
    (out / "metrics.jsonl").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("values", "message"),
    [({"loss": float("nan")}, "loss of step 1 is nan"), ({"signal_size": 0.0}, "no follow-up moves any token")],
)
def test_steps_that_are_not_finite_or_without_signal_fail_the_check(tmp_path, values, message):
    write_metrics(tmp_path / "run", **values)
    with pytest.raises(CheckFailed, match=message):
        check_steps(tmp_path / "run")


def test_weights_that_were_not_trained_fail_the_check(tmp_path):
    write_metrics(tmp_path / "run")
    assert check_steps(tmp_path / "run")["seconds_per_step"] == 1.0
    shutil.copytree(MODEL_DIR, tmp_path / "run" / "checkpoint-4")
    with pytest.raises(CheckFailed, match="0 of 46 tensors changed"):
        check_all_trained(tmp_path / "run")
    with pytest.raises(CheckFailed, match="4 steps instead of 5"):
        check_steps(tmp_path / "run", 5)


def test_the_change_of_weights_is_the_norm_of_their_difference():
    before = weights(MODEL_DIR)
    name = next(iter(before))
    after = before | {name: before[name] + 0.5}
    assert change(before, after) == pytest.approx(0.5 * before[name].numel() ** 0.5)
    assert change(before, before) == 0 and 0 < TOLERANCE < 1
    with pytest.raises(CheckFailed, match="other weights"):
        change(before, {})
