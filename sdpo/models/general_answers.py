"""A model's own answers to general prompts, and how far another model has moved from it on them.

The measure is KL(start ‖ model) in nats at each token of the start model's answers, and 0 for the start itself. The
start model is needed only for its hidden states at these tokens and its LM head, so both models need not be in memory
at the same time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from sdpo import progress
from sdpo.method.comparison import Comparison, compare
from sdpo.method.objective import divergence
from sdpo.method.scoring import Projection
from sdpo.models.generate import generate
from sdpo.text.chat import encode_answer, encode_prompt

GENERAL_TOKENS = 32  # the maximum length of an answer to a general prompt
GENERAL_SAMPLES = 2  # answers to each general prompt

# Compares a model with the start model on these prompts and completions.
RowComparison = Callable[[Any, list[list[int]], list[list[int]]], Comparison]


@dataclass(frozen=True)
class GeneralAnswers:
    """The start model's answers to general prompts as token ids: those that the style leaves as they are."""

    prompts: list[list[int]]
    completions: list[list[int]]


@dataclass(frozen=True)
class Shift:
    """How far a model has moved on one answer of the start model: sums over the answer's tokens."""

    divergence: float
    log_probability: float
    tokens: int


def sample_general_answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    samples: int,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
) -> list[tuple[str, str, bool]]:
    """Return (prompt, answer, finished) of several samples of each prompt, without those that are empty."""
    texts = [*prompts] * samples
    if not texts:
        return []
    encoded = [encode_general_prompt(tokenizer, text) for text in texts]
    label = "the start model's answers to general prompts"
    answers = generate(model, tokenizer, encoded, max_new_tokens, batch_size, 1.0, seed, label)
    return [(prompt, *answer) for prompt, answer in zip(texts, answers, strict=True) if answer[0].strip()]


def encode_general_prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the token ids of a general prompt: a user's message without a system message."""
    return encode_prompt(tokenizer, [{"role": "user", "content": text}])


def tokenized(tokenizer: PreTrainedTokenizerBase, answers: Sequence[tuple[str, str, bool]]) -> GeneralAnswers:
    """Return the token ids of (prompt, answer, finished) triples."""
    return GeneralAnswers(
        [encode_general_prompt(tokenizer, prompt) for prompt, _, _ in answers],
        [encode_answer(tokenizer, text, finished) for _, text, finished in answers],
    )


def compare_with_start(
    model: nn.Module,
    start: Projection,
    start_hidden: Sequence[Tensor],
    prompts: list[list[int]],
    completions: list[list[int]],
) -> Comparison:
    """Return the model's scores of completions and KL(start ‖ model) at each position, which carries gradient.

    `start_hidden` are the start model's hidden states at the tokens of each completion, on the model's device.
    """

    def from_start(logps_CV: Tensor, ids_C: Tensor, hidden_CH: Tensor) -> tuple[Tensor, Tensor]:
        start_CV = start.log_softmax(hidden_CH)
        at_ids_C = start_CV.gather(-1, ids_C[:, None]).squeeze(-1)
        return at_ids_C, divergence(logps_CV, start_CV, "forward")

    return compare(model, prompts, completions, from_start, torch.cat(list(start_hidden)))


@torch.no_grad()
def measure_shifts(
    model: nn.Module, general: GeneralAnswers, batch_size: int, compare_rows: RowComparison
) -> list[Shift]:
    """Return how far the model has moved on each answer, in evaluation mode and by one forward pass per answer."""
    shifts: list[Shift] = []
    was_training = model.training
    model.eval()
    starts = range(0, len(general.prompts), batch_size)
    for first in progress.each(starts, "distance from the start model", "batches"):
        rows = slice(first, first + batch_size)
        result = compare_rows(model, general.prompts[rows], general.completions[rows])
        columns = (result.divergence_BT.sum(1), result.logps_BT.sum(1), result.mask_BT.sum(1))
        shifts += [
            Shift(total, logp, int(tokens))
            for total, logp, tokens in zip(*(column.tolist() for column in columns), strict=True)
        ]
    model.train(was_training)
    return shifts


def distance_of(shifts: Sequence[Shift]) -> float | None:
    """Return KL(start ‖ model) per token over all answers together; None without any."""
    tokens = sum(shift.tokens for shift in shifts)
    return sum(shift.divergence for shift in shifts) / tokens if tokens else None


def log_probability_of(shifts: Sequence[Shift]) -> float | None:
    """Return the model's mean log-probability of a token of the answers; None without any."""
    tokens = sum(shift.tokens for shift in shifts)
    return sum(shift.log_probability for shift in shifts) / tokens if tokens else None
