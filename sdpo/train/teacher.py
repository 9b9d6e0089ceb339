"""The teacher: the model that is shown the follow-up in hindsight and scores the completion again."""

import copy
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from sdpo.scoring import score


class Teacher:
    """Scores completions after hindsight contexts, without gradient.

    `live` is the policy as it is now (the paper's method); `frozen` is a copy of it as it was when this object
    was made. Make it before a trainer wraps the policy: the copy of a wrapped model still calls the original.
    """

    def __init__(self, kind: str, policy: nn.Module) -> None:
        self._model = policy if kind == "live" else copy.deepcopy(policy).eval().requires_grad_(False)
        self._frozen = kind == "frozen"

    def prepare(self, accelerator: Accelerator) -> None:
        """Put a frozen teacher where the policy is, in the precision that it is run in."""
        if not self._frozen:
            return
        if accelerator.mixed_precision == "bf16":
            self._model.to(torch.bfloat16)  # never updated, so half the memory costs the training no precision
        self._model = accelerator.prepare_model(self._model, evaluation_mode=True)

    @torch.no_grad()
    def logps(self, contexts: Sequence[list[int]], completions: Sequence[list[int]], batch_size: int) -> Tensor:
        """Return log π(y | context) per token, (B, T) float32, zero on padding."""
        return score(self._model, contexts, completions, batch_size).logps_BT
