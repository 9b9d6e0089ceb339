"""The teacher: a model that is shown the follow-up in hindsight and scores the completion again."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict

from sdpo.method.scoring import Head, Projection, Scores, hidden_states, score
from sdpo.method.shared_prefix import at_positions_of_each
from sdpo.method.trees import PromptCache

Result = TypeVar("Result")

FIXED = ("frozen", "gated")  # the teachers that do not follow the policy during training


def trained_weights(policy: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and weight of each parameter that requires a gradient: those that training changes."""
    yield from ((name, weight) for name, weight in policy.named_parameters() if weight.requires_grad)


class Teacher:
    """Scores completions after hindsight contexts, without gradient and in evaluation mode.

    `kind` is one of

    - live: the current policy, the method of the paper (arXiv 2603.12273).
    - frozen: the policy as it was when this object was created. It is a copy or, with `adapter`, the policy with its
      adapter disabled; the policy then needs peft's `disable_adapter`.
    - ema: an average of the policy. After each step, teacher ← (1 − rate) · teacher + rate · policy.
    - gated: frozen until `refresh` sets it to the current policy.

    Create the teacher before adapters or a trainer wrap the policy: the copy of a wrapped model still calls the
    original.
    """

    def __init__(self, kind: str, policy: nn.Module, rate: float = 0.05, adapter: bool = False) -> None:
        self.kind, self.rate = kind, rate
        self._adapter_disabled = adapter and kind == "frozen"
        self._has_own_weights = kind != "live" and not self._adapter_disabled
        self._policy = policy
        self._model = copy.deepcopy(policy).eval().requires_grad_(False) if self._has_own_weights else policy
        if kind == "ema":  # the policy's base weights are bf16 under an adapter
            self._model.float()
        self._moving_weights: Callable[[nn.Module], Iterable[tuple[str, Tensor]]] = trained_weights

    def prepare(
        self,
        policy: nn.Module,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
        dtype: torch.dtype | None = None,
        moving_weights: Callable[[nn.Module], Iterable[tuple[str, Tensor]]] = trained_weights,
    ) -> None:
        """Use the policy as the trainer has wrapped it, and give the teacher's own weights the same treatment.

        `wrap` puts a model on its device or shards it (accelerate's `prepare_model`, FSDP). `dtype` is that of the
        teacher's own weights; "ema" stays in float32, because the change of one step is too small for bf16.
        `moving_weights` yields the policy's trained weights under the names that they have without an adapter.
        """
        self._policy, self._moving_weights = policy, moving_weights
        if not self._has_own_weights:
            self._model = policy
            return
        if dtype is not None and self.kind != "ema":
            self._model.to(dtype)
        if wrap is not None:
            self._model = wrap(self._model)

    def score(
        self, contexts: Sequence[list[int]], completions: Sequence[list[int]], batch_size: int, entropy: bool = False
    ) -> Scores:
        """Return the scores of each completion, without gradient; see `sdpo.method.scoring.score`."""
        with self._evaluating():
            return score(self._model, contexts, completions, batch_size, entropy)

    def at_positions_of_each(
        self,
        contexts: Sequence[Sequence[list[int]]],
        completions: Sequence[list[int]],
        batch_size: int,
        head_for: Callable[[int, int], Head],
        cache: PromptCache | None = None,
    ) -> tuple[list[Tensor], int]:
        """Return the heads' output for each list of contexts; see `sdpo.method.shared_prefix.at_positions_of_each`.

        `cache` is the policy's own, of the prompts: a "live" teacher makes use of it.
        """
        cache = cache if self.kind == "live" else None
        with self._evaluating():
            return at_positions_of_each(self._model, contexts, completions, batch_size, head_for, cache)

    def logps(self, contexts: Sequence[list[int]], completions: Sequence[list[int]], batch_size: int) -> Tensor:
        """Return log T(y_t | context, y_<t) for each token: (B, T) float32, zero on padding."""
        return self.score(contexts, completions, batch_size).logps_BT

    def hidden(self, contexts: Sequence[list[int]], completions: Sequence[list[int]], batch_size: int) -> list[Tensor]:
        """Return each completion's hidden states as the LM head reads them: one (T, H) per row, T the row's own."""
        with self._evaluating():
            return hidden_states(self._model, contexts, completions, batch_size)

    def run(self, function: Callable[[Any], Result]) -> Result:
        """Return function(model), called with the teacher's model in evaluation mode and without gradient."""
        with self._evaluating():
            return function(self._model)

    def projection(self) -> Projection:
        """Return the teacher's current LM head. Every process must call it: sharded weights are gathered."""
        return Projection.of(self._model)

    def after_step(self) -> None:
        """Update an "ema" teacher after an optimizer step; other kinds do nothing."""
        if self.kind == "ema":
            self._follow(self.rate)

    def refresh(self) -> None:
        """Set the teacher's own weights to those of the current policy."""
        self._follow(1.0)

    def state_dict(self) -> dict[str, Tensor] | None:
        """Return the weights that a checkpoint must store: those of "ema" and "gated", None for other kinds.

        They are unsharded and on the CPU. Every process must call it.
        """
        if self.kind not in ("ema", "gated"):
            return None
        weights: dict[str, Any] = get_model_state_dict(
            self._model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
        )
        return weights

    def load_state_dict(self, weights: dict[str, Tensor]) -> None:
        """Load what `state_dict` returned. Every process must call it."""
        set_model_state_dict(self._model, {**weights}, options=StateDictOptions(full_state_dict=True))

    @torch.no_grad()
    def _follow(self, rate: float) -> None:
        """Move the teacher's weights towards the policy's by this share of the difference."""
        own = dict(self._model.named_parameters())
        for name, weight in self._moving_weights(self._policy):
            own[name].lerp_(weight.to(own[name].dtype), rate)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        model: Any = self._model  # with an adapter it has peft's `disable_adapter`
        was_training = model.training
        model.eval()
        try:
            with torch.no_grad(), model.disable_adapter() if self._adapter_disabled else nullcontext():
                yield
        finally:
            model.train(was_training)
