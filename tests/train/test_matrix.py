"""Every job, adapter, teacher, objective and guard that may go together trains what was asked for, and only that.

Each pair of values occurs in a run of two steps on a tiny random model. The test looks at which weights moved: those
of the policy in memory, those of the teacher, and those in the checkpoint.
"""

import os

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sdpo.errors import SettingError
from sdpo.evaluate.models import ModelCache, checkpoint_model
from sdpo.method.scoring import score
from sdpo.models.policy import load_model
from tests.training import OFFLINE, ONLINE, moved, pairwise, session_of, weights_of, write_interactions, write_model
from tests.worlds import rows_of

pytestmark = pytest.mark.slow

AXES = {
    "job": (*ONLINE, *OFFLINE),
    "adapter": ("none", "lora", "qlora"),
    "teacher": ("live", "frozen", "ema", "gated"),
    "objective": ("token", "full", "top_k", "sft"),
    "guard": ("off", "warn", "stop"),
}
CONTEXTS, COMPLETIONS = [[5, 6, 7]], [[8, 9, 10]]


def allowed(run: dict[str, str]) -> bool:
    """Return whether these values may go together."""
    keeps_own_copy = run["teacher"] in ("ema", "gated")
    return not (run["adapter"] == "qlora" and keeps_own_copy) and not (
        run["objective"] == "sft" and run["job"] in ONLINE
    )


RUNS = pairwise(AXES, allowed)
REFUSED = [
    {"job": "train_offline", "adapter": "qlora", "teacher": "ema"},
    {"job": "train_online_tldr", "adapter": "qlora", "teacher": "gated"},
    {"job": "train_online_tldr", "objective": "sft"},
    {"job": "train_online_helpsteer", "objective": "sft"},
    *({"job": job, "merge_adapter": 1} for job in ("train_offline", "train_online_tldr")),
    *({"job": job, "lora_targets": "q_proj"} for job in ("train_offline", "train_online_tldr")),
    *(
        {"job": job, "adapter": adapter, "lora_targets": targets}
        for job, adapter in (("train_offline", "lora"), ("train_online_tldr", "lora"), ("train_offline", "qlora"))
        for targets in ("nonsense", "q_proj,v_prj", "embed_tokens", "lm_head", "q_proj,norm", "mlp", "q_proj,")
    ),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a random model and logged interactions; nothing is tracked while the tests run."""
    folder = tmp_path_factory.mktemp("matrix")
    write_model(folder / "model")
    write_interactions(folder / "logs.jsonl")
    before, os.environ["WANDB_MODE"] = os.environ.get("WANDB_MODE"), "disabled"
    yield folder
    os.environ["WANDB_MODE"] = before or "offline"


def session(folder, out, run):
    """Return the session of a run with these settings; a third of the runs recompute their activations."""
    data = {"train_jsonl": folder / "logs.jsonl"} if run["job"] in OFFLINE else {}
    data["gradient_checkpointing"] = int(run.get("guard") == "stop")
    return session_of(out=out, model=folder / "model", **data, **run)


def logps(model) -> torch.Tensor:
    with torch.no_grad():
        return score(model.eval(), CONTEXTS, COMPLETIONS).logps_BT


@pytest.mark.parametrize("run", RUNS, ids=["-".join(run.values()) for run in RUNS])
def test_the_weights_that_were_asked_for_are_trained(run, folder, tmp_path):
    if run["adapter"] == "qlora":
        pytest.importorskip("bitsandbytes")
    out, has_adapter = tmp_path / "run", run["adapter"] != "none"
    trained = session(folder, out, run | ({"merge_adapter": 1} if has_adapter else {}))
    policy, teacher = trained.trainer.model, trained.teacher
    before, teacher_before = weights_of(policy), weights_of(teacher._model)
    start = logps(policy)
    assert trained.run()

    adapter = {name for name in before if "lora_" in name}
    assert bool(adapter) is has_adapter
    assert moved(before, policy) == (adapter or set(before))
    follows = {"live": moved(before, policy), "ema": set(teacher_before)}.get(run["teacher"], set())
    if run["teacher"] == "frozen" and has_adapter:  # the policy, with its adapter switched off
        assert teacher._model is policy and logps(policy).ne(start).any()
        torch.testing.assert_close(teacher.logps(CONTEXTS, COMPLETIONS, 1), start)
    elif run["teacher"] == "ema" and has_adapter:
        assert {name.rsplit(".", 1)[0] for name in moved(teacher_before, teacher._model)} == {
            name.partition(".lora_")[0].removeprefix("base_model.model.") for name in adapter
        }
    else:
        assert moved(teacher_before, teacher._model) == follows
    assert_saved(trained, folder / "model", out, has_adapter)

    rows = rows_of(out / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2] and all(row["usable"] == 4 for row in rows)
    assert (out / "guard.jsonl").exists() is (run["guard"] != "off")


def assert_saved(trained, model, out, has_adapter: bool) -> None:
    """Check that the checkpoint holds what was trained, loads for an evaluation, and is merged as it was trained."""
    policy, checkpoint = trained.trainer.model, out / "checkpoint-2"
    assert (checkpoint / "adapter_model.safetensors").exists() is has_adapter
    assert (checkpoint / "model.safetensors").exists() is not has_adapter
    evaluated = ModelCache("fp32").load(checkpoint_model(2, checkpoint, str(model)))
    if not has_adapter:
        torch.testing.assert_close(logps(evaluated), logps(policy), atol=1e-5, rtol=1e-5)
        return
    saved, trained_weights = load_file(checkpoint / "adapter_model.safetensors"), weights_of(policy)
    for name, weight in saved.items():
        assert torch.equal(weight, trained_weights[name.replace(".weight", ".default.weight")])
    merged = load_model(str(out / "merged"))[1]
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), checkpoint)
    torch.testing.assert_close(logps(evaluated), logps(plain))
    torch.testing.assert_close(logps(merged), logps(plain), atol=1e-4, rtol=1e-4)
    if trained.settings.adapter == "lora":
        torch.testing.assert_close(logps(plain), logps(policy), atol=1e-5, rtol=1e-5)


def test_each_pair_of_values_is_tried():
    pairs = {
        ((first, one), (second, other))
        for first in AXES for second in AXES if first < second
        for one in AXES[first] for other in AXES[second]
    }  # fmt: skip
    tried = {((first, run[first]), (second, run[second])) for run in RUNS for first in run for second in run}
    apart = {(("adapter", "qlora"), ("teacher", teacher)) for teacher in ("ema", "gated")}
    apart |= {(("job", job), ("objective", "sft")) for job in ONLINE}
    assert pairs - tried == apart and all(map(allowed, RUNS)) and len(RUNS) < 30


@pytest.mark.parametrize("run", REFUSED, ids=["-".join(map(str, run.values())) for run in REFUSED])
def test_what_may_not_go_together_is_refused_in_one_line(run, folder, tmp_path):
    if run.get("adapter") == "qlora":
        pytest.importorskip("bitsandbytes")
    with pytest.raises(SettingError) as caught:
        session(folder, tmp_path / "run", run)
    named = {"merge_adapter": "MERGE_ADAPTER", "lora_targets": "LORA_TARGETS", "teacher": "TEACHER"}
    assert next((text for name, text in named.items() if name in run), "OBJECTIVE") in str(caught.value)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
