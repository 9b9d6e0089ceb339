"""What FSDP2 needs besides what accelerate and the Trainer do: before the policy is wrapped, and after it."""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import is_peft_model
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from transformers import Trainer, TrainerCallback

_SHARE = 0.8  # of a GPU's free memory that a whole policy may take


def keep_outputs_in_float32(accelerator: Accelerator) -> None:
    """Have FSDP2 compute in bf16, but neither round what a model returns nor add up gradients in bf16.

    Call it before anything is wrapped. By accelerate's policy the log-probabilities would be rounded to bf16, and the
    signal is their small difference.
    """
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and plugin.fsdp_version == 2 and accelerator.mixed_precision == "bf16":
        plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def move_before_wrapping(policy: nn.Module, accelerator: Accelerator) -> None:
    """Move a policy that FSDP will shard to this process's device, if it has room for all of it.

    The Trainer leaves it on the CPU until training begins, but measurements before that run it, and compare it with a
    teacher that is on the device. One that is too large stays: wrapping moves it layer by layer.
    """
    device = accelerator.device
    if getattr(accelerator.state, "fsdp_plugin", None) is None or next(policy.parameters()).device == device:
        return
    size = sum(weight.numel() * weight.element_size() for weight in policy.parameters())
    if device.type != "cuda" or size < _SHARE * torch.cuda.mem_get_info(device)[0]:
        policy.to(device)


class ShardingCallback(TrainerCallback):
    """Settles a policy that FSDP2 shards when training begins. Add it before callbacks that run the policy."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **_) -> None:
        """The trainer has just wrapped the policy; every process is here."""
        settle(self.trainer.model)


def settle(policy: Any) -> None:
    """Make a policy that FSDP2 has just wrapped fit for forward passes without a backward; others stay as they are.

    Every process must call it before the first forward pass of the wrapped policy.
    """
    if not isinstance(policy, FSDPModule):
        return
    # accelerate leaves the final norm and the LM head gathered after a forward pass, for the backward pass to come.
    # After one without gradient they would stay so: the next step would not see the update of these weights, and its
    # gradient would have that of the step before.
    policy.set_reshard_after_forward(True)
    if is_peft_model(policy):
        _run_once(policy)


@torch.no_grad()
def _run_once(policy: Any) -> None:
    """Run the policy with its adapter enabled.

    FSDP2 notes the dtype of the gradients in the first pass, from the weights that are trained. With the adapter
    disabled, as a frozen teacher has it, these would be none, and the first backward pass would fail.
    """
    was_training = policy.training
    policy.eval()
    policy(input_ids=torch.zeros((1, 1), dtype=torch.long, device=policy.device), use_cache=False)
    policy.train(was_training)
