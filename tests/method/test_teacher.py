"""Teachers: how they follow the policy, with and without adapters, and what a checkpoint stores of them."""

import copy

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model

from sdpo.method.teacher import Teacher
from sdpo.models.policy import hold_trained_weights_in_float32
from sdpo.train.teacher_weights import load_teacher, prepare_teacher, save_teacher
from tests.small import small_model

CONTEXTS, COMPLETIONS = [[1, 2, 3], [4]], [[5, 6, 7], [8, 9]]


def logps(teacher: Teacher) -> torch.Tensor:
    return teacher.logps(CONTEXTS, COMPLETIONS, 2)


def with_lora(model):
    return get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))


def move(model, seed: int = 0) -> None:
    """Change the trained weights, as optimizer steps would."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))


def prepared(kind: str, adapter: bool, rate: float = 0.25) -> tuple[Teacher, torch.nn.Module]:
    base = small_model()
    teacher = Teacher(kind, base, rate, adapter=adapter)
    policy = with_lora(base) if adapter else base
    prepare_teacher(teacher, Accelerator(cpu=True), policy)
    return teacher, policy


@pytest.mark.parametrize("adapter", [False, True])
def test_live_follows_at_once_and_frozen_and_gated_do_not(adapter):
    for kind, is_fixed in (("live", False), ("frozen", True), ("gated", True)):
        teacher, policy = prepared(kind, adapter)
        before = logps(teacher)
        move(policy)
        teacher.after_step()
        assert torch.allclose(logps(teacher), before, atol=1e-6) == is_fixed


@pytest.mark.parametrize("adapter", [False, True])
def test_refresh_sets_a_gated_teacher_to_the_policy(adapter):
    teacher, policy = prepared("gated", adapter)
    move(policy)
    teacher.refresh()
    torch.testing.assert_close(
        logps(teacher), Teacher("live", policy).logps(CONTEXTS, COMPLETIONS, 2), atol=1e-5, rtol=0
    )


def test_frozen_with_an_adapter_is_not_a_copy_and_leaves_the_adapter_enabled():
    teacher, policy = prepared("frozen", True)
    start = logps(Teacher("live", small_model()))
    move(policy)
    moved = Teacher("live", policy)
    after = logps(moved)
    torch.testing.assert_close(logps(teacher), start, atol=1e-6, rtol=0)
    torch.testing.assert_close(logps(moved), after)
    assert (after - start).abs().max() > 1e-3
    assert teacher._model is policy
    assert all(weight.requires_grad == ("lora" in name) for name, weight in policy.named_parameters())


def test_ema_follows_at_its_rate():
    teacher, policy = prepared("ema", False, rate=0.25)
    start = copy.deepcopy(policy)
    move(policy)
    teacher.after_step()
    for own, old, new in zip(teacher._model.parameters(), start.parameters(), policy.parameters(), strict=True):
        torch.testing.assert_close(own, 0.75 * old + 0.25 * new)


def test_ema_of_an_adapter_averages_the_product_of_its_matrices():
    teacher, policy = prepared("ema", True, rate=0.5)
    layer = policy.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    expected = layer.base_layer.weight.clone()
    for step in range(3):
        move(policy, step)
        teacher.after_step()
        product = 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight  # alpha / r = 2
        expected = 0.5 * expected + 0.5 * (layer.base_layer.weight + product)
    own = teacher._model.get_submodule("model.layers.0.self_attn.q_proj").weight
    torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-4)
    assert (own - layer.base_layer.weight).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["ema", "gated"])
def test_a_checkpoint_stores_only_teachers_that_cannot_be_reconstructed(kind, tmp_path):
    teacher, policy = prepared(kind, False)
    move(policy)
    teacher.after_step()
    teacher.refresh() if kind == "gated" else None
    save_teacher(teacher, tmp_path, main=True)
    loaded, _ = prepared(kind, False)
    assert not torch.allclose(logps(loaded), logps(teacher), atol=1e-4)
    load_teacher(loaded, tmp_path)
    assert torch.equal(logps(loaded), logps(teacher))
    assert not list(tmp_path.glob("*.safetensors"))  # a server takes all of them for the policy's weights
    (tmp_path / "teacher" / "weights.safetensors").replace(tmp_path / "teacher.safetensors")
    older, _ = prepared(kind, False)  # a checkpoint of an earlier version
    load_teacher(older, tmp_path)
    assert torch.equal(logps(older), logps(teacher))
    for other in ("live", "frozen"):
        (tmp_path / other).mkdir()
        save_teacher(prepared(other, False)[0], tmp_path / other, main=True)
        assert not list((tmp_path / other).iterdir())


def test_adapter_weights_are_float32_on_a_bf16_base():
    policy = with_lora(small_model().to(torch.bfloat16))
    hold_trained_weights_in_float32(policy)
    kinds = {weight.dtype for weight in policy.parameters() if weight.requires_grad}
    assert kinds == {torch.float32}
    assert policy.get_submodule("base_model.model.model.layers.0.mlp.up_proj").base_layer.weight.dtype == torch.bfloat16
