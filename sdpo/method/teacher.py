"""The teacher: the model that is shown the follow-up in hindsight and scores the completion again."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict

from sdpo.method.scoring import Projection, hidden_states, score

FIXED = ("frozen", "gated")  # teachers that do not follow the policy as it moves


def trained_weights(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and weights that training moves: those that take a gradient."""
    yield from ((name, weight) for name, weight in policy.named_parameters() if weight.requires_grad)


class Teacher:
    """Scores completions after hindsight contexts, without gradient.

    `live` is the policy as it is now (the paper's method, arXiv 2603.12273). `frozen` is the policy as it was when
    this object was made: a copy or, where training only moves an adapter, the policy with its adapter disabled
    (`adapter`: the policy then has peft's `disable_adapter`). `ema` follows the policy by `rate` after each step.
    `gated` is frozen until `refresh`.

    Make it before adapters or a trainer wrap the policy: the copy of a wrapped model still calls the original.
    """

    def __init__(self, kind: str, policy: nn.Module, rate: float = 0.05, adapter: bool = False) -> None:
        self.kind, self.rate = kind, rate
        self._adapter_disabled = adapter and kind == "frozen"
        self._has_own_weights = kind != "live" and not self._adapter_disabled
        self._policy = policy
        self._model = copy.deepcopy(policy).eval().requires_grad_(False) if self._has_own_weights else policy
        self._moving_weights: Callable[[nn.Module], Iterable[tuple[str, Tensor]]] = trained_weights

    def prepare(
        self,
        policy: nn.Module,
        place: Callable[[nn.Module], nn.Module] | None = None,
        dtype: torch.dtype | None = None,
        moving_weights: Callable[[nn.Module], Iterable[tuple[str, Tensor]]] = trained_weights,
    ) -> None:
        """Take the policy as the trainer has wrapped it, and treat the teacher's own weights as the policy's are.

        `place` puts a model on its device or shares it out (accelerate's `prepare_model`, FSDP). `dtype` is what own
        weights are held in; an average (`ema`) keeps its own, for a step's part of it is less than bf16 can tell.
        `moving_weights` yields the policy's trained weights under the names that they have without an adapter.
        """
        self._policy, self._moving_weights = policy, moving_weights
        if not self._has_own_weights:
            self._model = policy
            return
        if dtype is not None and self.kind != "ema":
            self._model.to(dtype)
        if place is not None:
            self._model = place(self._model)

    def logps(self, contexts: Sequence[list[int]], completions: Sequence[list[int]], batch_size: int) -> Tensor:
        """Return log π(y | context) per token, (B, T) float32, zero on padding."""
        with self._evaluating():
            return score(self._model, contexts, completions, batch_size).logps_BT

    def hidden(self, contexts: Sequence[list[int]], completions: Sequence[list[int]], batch_size: int) -> list[Tensor]:
        """Return per completion the hidden states (T, H) that its LM head would turn into distributions."""
        with self._evaluating():
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

    def state_dict(self) -> dict[str, Tensor] | None:
        """Return weights that can be had neither from the start nor from the policy, None where there are none.

        Whole and on the CPU; every process calls it.
        """
        if self.kind not in ("ema", "gated"):
            return None
        return get_model_state_dict(self._model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))

    def load_state_dict(self, weights: dict[str, Tensor]) -> None:
        """Take up what `state_dict` returned; every process calls it."""
        set_model_state_dict(self._model, weights, options=StateDictOptions(full_state_dict=True))

    @torch.no_grad()
    def _follow(self, rate: float) -> None:
        own = dict(self._model.named_parameters())
        for name, weight in self._moving_weights(self._policy):
            own[name].lerp_(weight.to(own[name].dtype), rate)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        was_training = self._model.training
        self._model.eval()
        try:
            with torch.no_grad(), self._model.disable_adapter() if self._adapter_disabled else nullcontext():
                yield
        finally:
            self._model.train(was_training)
