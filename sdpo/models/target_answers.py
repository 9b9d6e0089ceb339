"""Answers sampled from the contrast target itself: what training with NULL_CONTRAST leads to, without training."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from sdpo import progress
from sdpo.method.loss import Contexts
from sdpo.method.objective import Objective, contrast
from sdpo.models.generate import end_tokens, generate_batch
from sdpo.text.chat import decode


class ContrastProcessor(LogitsProcessor):
    """Makes three rows per answer one sample: the prompt alone, then with the follow-up, then with the null one.

    It samples each next token from the contrast of the three distributions (see `objective.contrast`), or takes the
    most likely one at temperature 0, and leaves that token as the only possible one in all three rows. They hold the
    rows of a batch one group after the other.
    """

    def __init__(self, objective: Objective, temperature: float) -> None:
        self.objective, self.temperature = objective, temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores (3 B, V) that are 0 for the token that was sampled and -inf for all others."""
        chosen_B1 = self._choose(*scores.float().log_softmax(-1).chunk(3))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen_B1.repeat(3, 1), 0.0)

    def _choose(self, bare_BV: Tensor, hindsight_BV: Tensor, null_BV: Tensor) -> Tensor:
        objective = self.objective
        target_BV = contrast(
            hindsight_BV,
            null_BV,
            bare_BV,
            objective.contrast_strength,
            objective.contrast_margin,
            objective.contrast_plausibility,
        )
        if self.temperature == 0:
            return target_BV.argmax(-1, keepdim=True)
        return torch.multinomial((target_BV / self.temperature).softmax(-1), 1)


@torch.no_grad()
def sample_from_target(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    contexts: Sequence[Contexts],
    objective: Objective,
    max_new_tokens: int,
    batch_size: int,
    temperature: float,
    seed: int,
    label: str = "answers",
) -> list[tuple[str, bool]]:
    """Return (text, finished) for each prompt, in order, as `generate` does, sampled from the contrast target.

    `batch_size` counts rows, three for each answer. Each of the contexts has a null one.
    """
    ends, size = end_tokens(model, tokenizer), max(1, batch_size // 3)
    config = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )
    processors = LogitsProcessorList([ContrastProcessor(objective, temperature)])
    order = sorted(range(len(contexts)), key=lambda index: len(contexts[index].hindsight))
    answers: list[tuple[str, bool]] = [("", False)] * len(contexts)
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), progress.task(label, len(order), "answers") as under:
        torch.manual_seed(seed)
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            rows = [contexts[index] for index in chosen]
            groups = ([row.prompt for row in rows], [row.hindsight for row in rows], [row.null or [] for row in rows])
            new = generate_batch(model, [ids for group in groups for ids in group], config, processors)
            for index, ids in zip(chosen, new, strict=False):
                answers[index] = (decode(tokenizer, ids), bool(ids) and ids[-1] in ends)
            under.advance(len(chosen))
    return answers
