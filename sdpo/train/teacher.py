"""The teacher: the model that is shown the follow-up in hindsight and scores the completion again."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import is_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from trl.models.utils import prepare_fsdp

from sdpo.scoring import Projection, hidden_states, score

FILE = "teacher.safetensors"
STANDING = ("frozen", "gated")  # teachers that do not follow the policy as it moves


class Teacher:
    """Looks at completions after hindsight contexts, without gradient.

    `live` is the policy as it is now (the paper's method). `frozen` is the policy as it was when this object was
    made: a copy or, where training only moves an adapter, the policy with the adapter off. `ema` follows the policy
    by `rate` a step. `gated` is frozen until `refresh`.

    Make it before adapters or a trainer wrap the policy: the copy of a wrapped model still calls the original.
    """

    def __init__(self, kind: str, policy: nn.Module, rate: float = 0.05, adapter: bool = False) -> None:
        self.kind, self.rate = kind, rate
        self._adapter_off = adapter and kind == "frozen"
        self._own = kind != "live" and not self._adapter_off
        self._policy = policy
        self._model = copy.deepcopy(policy).eval().requires_grad_(False) if self._own else policy

    def prepare(self, accelerator: Accelerator, policy: nn.Module) -> None:
        """Take the policy as the trainer has it, and put weights of the teacher's own where the policy's are."""
        self._policy = policy
        if not self._own:
            self._model = policy
            return
        if accelerator.mixed_precision == "bf16" and self.kind != "ema":
            # Half the memory, at no cost to the training: nothing is added to these weights. An average in bf16
            # would stand still, for a step's part of it is less than bf16 can tell.
            self._model.to(torch.bfloat16)
        if getattr(accelerator.state, "fsdp_plugin", None) is not None:
            self._model = prepare_fsdp(self._model, accelerator)
        else:
            self._model = accelerator.prepare_model(self._model, evaluation_mode=True)

    def logps(self, contexts: Sequence[list[int]], completions: Sequence[list[int]], batch_size: int) -> Tensor:
        """Return log π(y | context) per token, (B, T) float32, zero on padding."""
        with self._looking():
            return score(self._model, contexts, completions, batch_size).logps_BT

    def hidden(self, contexts: Sequence[list[int]], completions: Sequence[list[int]], batch_size: int) -> list[Tensor]:
        """Return per completion the hidden states (T, H) that its LM head would turn into distributions."""
        with self._looking():
            return hidden_states(self._model, contexts, completions, batch_size)

    def projection(self) -> Projection:
        """Return its LM head as it is now."""
        return Projection.of(self._model)

    def after_step(self) -> None:
        """Follow the policy a little, where the teacher is an average of it."""
        if self.kind == "ema":
            self._follow(self.rate)

    def refresh(self) -> None:
        """Become the policy as it is now, where the teacher has weights of its own."""
        self._follow(1.0)

    def save(self, folder: Path, main: bool) -> None:
        """Write weights that cannot be had from the start or from the policy; every process calls it."""
        if self.kind in ("ema", "gated"):
            weights = get_model_state_dict(
                self._model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
            )
            if main:
                save_file({name: weight.clone().contiguous() for name, weight in weights.items()}, folder / FILE)

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        if self.kind in ("ema", "gated"):
            set_model_state_dict(self._model, load_file(folder / FILE), options=StateDictOptions(full_state_dict=True))

    @torch.no_grad()
    def _follow(self, rate: float) -> None:
        own = dict(self._model.named_parameters())
        for name, weight in _moved_weights(self._policy):
            own[name].lerp_(weight.to(own[name].dtype), rate)

    @contextmanager
    def _looking(self) -> Iterator[None]:
        was_training = self._model.training
        self._model.eval()
        try:
            with torch.no_grad(), self._model.disable_adapter() if self._adapter_off else nullcontext():
                yield
        finally:
            self._model.train(was_training)


def _moved_weights(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights that training moves, by their names without adapters.

    Of an adapter it is the product that counts: averages of A and of B would not multiply to the average of BA.
    """
    if not is_peft_model(policy):
        yield from ((name, weight) for name, weight in policy.named_parameters() if weight.requires_grad)
        return
    for name, module in policy.get_base_model().named_modules():
        if hasattr(module, "get_delta_weight") and module.active_adapters:
            delta = sum(module.get_delta_weight(adapter) for adapter in module.active_adapters)
            yield f"{name}.weight", module.get_base_layer().weight + delta
