"""The teacher: the model that is shown the follow-up in hindsight and scores the completion again."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sdpo.scoring import Projection, hidden_states, score

KINDS = ("live", "frozen")


class Teacher:
    """Looks at completions after hindsight contexts, without gradient.

    `live` is the policy as it is now (the paper's method); `frozen` is a copy of it as it was when this object
    was made. Make it before adapters or a trainer wrap the policy: the copy of a wrapped model still calls the
    original.
    """

    def __init__(self, kind: str, policy: nn.Module) -> None:
        self.kind = kind
        self._model = policy if kind == "live" else copy.deepcopy(policy).eval().requires_grad_(False)

    def prepare(self, accelerator: Accelerator, policy: nn.Module) -> None:
        """Take the policy as the trainer has it, and put weights of the teacher's own where the policy's are."""
        if self.kind == "live":
            self._model = policy
            return
        if accelerator.mixed_precision == "bf16":
            self._model.to(torch.bfloat16)  # never updated, so half the memory costs the training no precision
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

    @contextmanager
    def _looking(self) -> Iterator[None]:
        was_training = self._model.training
        self._model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self._model.train(was_training)
