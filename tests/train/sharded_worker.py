"""One process with FSDP2 on a CPU, as accelerate wraps a policy; `test_sharding.py` reads what it prints."""

import json
from types import SimpleNamespace

import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from peft import LoraConfig, get_peft_model
from torch import distributed
from torch.distributed.tensor import DTensor
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.distributed.fsdp import is_fsdp_managed_module

from sdpo.method.scoring import score
from sdpo.method.teacher import Teacher
from sdpo.train import sharding

IDS = torch.arange(3, 9)[None]


def small(tied: bool) -> Qwen3ForCausalLM:
    """Return a model with random weights; the same ones at each call."""
    torch.manual_seed(0)
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, tie_word_embeddings=tied, initializer_range=0.2,
        )
    )  # fmt: skip


def wrapped(model, precision: str = "no"):
    """Return the model as accelerate wraps it with jobs/accelerate/fsdp2.yaml, settled."""
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", reshard_after_forward=True,
        state_dict_type="FULL_STATE_DICT", cpu_ram_efficient_loading=False,
    )  # fmt: skip
    if precision != "no":
        plugin.set_mixed_precision(precision)
    state = SimpleNamespace(fsdp_plugin=plugin)
    accelerator = SimpleNamespace(state=state, mixed_precision=precision, is_main_process=True, device="cpu")
    sharding.keep_outputs_in_float32(accelerator)
    model = fsdp2_prepare_model(accelerator, model.train())
    sharding.settle(model)
    return model


def after_a_forward_without_gradient(tied: bool) -> dict:
    """Two steps, with forward passes without gradient in between, beside the same steps unsharded."""
    alone, policy = small(tied), wrapped(small(tied), "bf16")
    teacher = Teacher("ema", small(tied), rate=0.5)
    teacher.prepare(policy, lambda model: wrapped(model, "bf16"))
    updated = []
    for model in (alone, policy):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            with torch.no_grad():
                model(IDS)
            if model is policy:
                updated.append(all(isinstance(weight, DTensor) for weight in model.parameters()))
                teacher.after_step()
            model(IDS, labels=IDS).loss.backward()
            with torch.no_grad():  # as the guard does in on_pre_optimizer_step
                model(IDS)
            optimizer.step()
            model.zero_grad()  # the Trainer does not call the optimizer's
    differing = []
    for (name, weight), other, start in zip(
        policy.named_parameters(), alone.parameters(), small(tied).parameters(), strict=True
    ):
        if (weight.full_tensor() - other).norm() > 0.3 * (other - start).norm():  # bf16 rounds by a few percent
            differing.append(name)
    return {"sharded": all(updated), "differing": differing}


def adapter_disabled_first() -> dict:
    """In bf16, a forward pass with the adapter disabled, then a training step."""
    policy = wrapped(
        get_peft_model(small(False), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")), "bf16"
    )
    with torch.no_grad(), policy.disable_adapter():
        policy(IDS)
    policy(IDS, labels=IDS).loss.backward()
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    return {"gradients": all(weight.grad is not None for weight in trained), "weights": len(trained)}


def rounded() -> bool:
    """Return whether the scores of a model that computes in bf16 are rounded to bf16."""
    logps_BT = score(wrapped(small(True), "bf16"), [[3, 4]], [[5, 6, 7, 8, 9]]).logps_BT
    return torch.equal(logps_BT, logps_BT.bfloat16().float())


def main() -> None:
    """Print a line of JSON."""

    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    found = {
        "tied": after_a_forward_without_gradient(True),
        "untied": after_a_forward_without_gradient(False),
        "adapter": adapter_disabled_first(),
        "rounded": rounded(),
        "synced": is_fsdp_managed_module(wrapped(small(True))),
        "synced_adapter": is_fsdp_managed_module(
            wrapped(get_peft_model(small(True), LoraConfig(target_modules="all-linear"))).get_base_model()
        ),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
