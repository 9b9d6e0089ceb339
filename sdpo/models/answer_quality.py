"""What can be said of an answer without reading it, by the model that the policy started from.

Adherence to a style says nothing about the rest of an answer: a policy can learn to be brief by saying nothing. The
start model, whose weights are at hand in every run, measures the rest. All figures are in nats.

fluency: the mean log-probability of a token, given the prompt alone or with the wish shown, whichever is higher. An
    answer that the start model might have given, asked for the style or not, keeps its fluency; word salad loses it.
surprise: how much less likely a token is than one that the start model would have sampled there: the entropy of its
    distribution less the token's log-probability, −log π − H, again with or without the wish, whichever is lower. For
    the start model's own samples its sum over an answer has the expectation 0, whatever the prompt and the length, so a
    few answers suffice. The mean per token counts each token of a short answer for more: where a model often ends
    early by chance, it lies a little above 0, and the lower of two contexts a little below.
topic: how much more likely a token is after the answer's own prompt than after other prompts, on average.
leak: whether the answer's beginning is likelier as a reply to a follow-up than as an answer to the prompt, such as
    "You're welcome!" to somebody who has said nothing yet.
distance: KL(start ‖ policy) per token on the start model's own answers to general prompts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sdpo import progress
from sdpo.method.objective import row_mean
from sdpo.method.scoring import Scores
from sdpo.text.chat import encode_prompt
from sdpo.text.hindsight import HindsightTemplate, with_hindsight
from sdpo.text.prompts import NULL_FOLLOW_UP, Message

# Scores completions in contexts with the start model; with the entropy of each position.
Scorer = Callable[[list[list[int]], list[list[int]]], Scores]

OTHER_PROMPTS = 2  # the number of other prompts that an answer's own prompt is compared with
LEAK_TOKENS = 12  # the beginning of an answer that is compared with a reply to a follow-up
LEAK_NATS = 2.0  # a beginning that is more likely as a reply by this much, in total, is a leak


@dataclass(frozen=True)
class AnswerQuality:
    """The figures of one answer; see the module's docstring."""

    fluency: float
    surprise: float
    topic: float
    leak: bool


def measure_quality(
    score: Scorer,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[Message]],
    completions: Sequence[list[int]],
    wish: str | None,
    template: HindsightTemplate,
) -> list[AnswerQuality]:
    """Return the quality of each completion (token ids) of its prompt; no completion may be empty.

    `wish` is the style in the user's words, as a complaint or a persona says it; None if it is not known.
    """
    rows = [list(completion) for completion in completions]
    encoded = [encode_prompt(tokenizer, messages) for messages in prompts]
    variants = [encoded]
    if wish is not None:
        variants.append([encode_prompt(tokenizer, with_hindsight(messages, wish, template)) for messages in prompts])
    shifts = range(1, 1 + min(OTHER_PROMPTS, len(encoded) - 1))
    replied_to = [text for text in (NULL_FOLLOW_UP, wish) if text is not None]
    replying = [[encode_prompt(tokenizer, [{"role": "user", "content": text}])] * len(rows) for text in replied_to]
    starts = [row[:LEAK_TOKENS] for row in rows]
    passes = [(contexts, rows) for contexts in variants]
    passes += [(encoded[shift:] + encoded[:shift], rows) for shift in shifts]
    passes += [(contexts, starts) for contexts in replying]
    results = [score(*given) for given in progress.each(passes, "quality of the answers", "passes")]
    scores, others = results[: len(variants)], results[len(variants) : len(variants) + len(shifts)]
    replies = [result.logps_BT.sum(1) for result in results[len(variants) + len(shifts) :]]
    bare_BT, mask_BT = scores[0].logps_BT, scores[0].mask_BT
    topic_B = torch.zeros(len(rows))
    if others:
        topic_B = row_mean(bare_BT, mask_BT) - torch.stack([row_mean(one.logps_BT, mask_BT) for one in others]).mean(0)
    answered_B = bare_BT[:, :LEAK_TOKENS].sum(1)
    columns = (
        torch.stack([row_mean(variant.logps_BT, mask_BT) for variant in scores]).amax(0),
        torch.stack([surprise_of(variant) for variant in scores]).amin(0),
        topic_B,
        torch.stack(replies).amax(0) > answered_B + LEAK_NATS,
    )
    return [AnswerQuality(*figures) for figures in zip(*(column.tolist() for column in columns), strict=True)]


def measure_surprise(
    score: Scorer,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[Message]],
    completions: Sequence[list[int]],
) -> list[float]:
    """Return the surprise of each completion after these prompts alone, at one forward pass per row."""
    contexts = [encode_prompt(tokenizer, messages) for messages in prompts]
    return surprise_of(score(contexts, list(completions))).tolist()


def surprise_of(scores: Scores) -> Tensor:
    """Return each row's mean of −log π − H over its tokens, (B,), of scores with the entropy."""
    return -row_mean(scores.logps_BT + scores.entropy_BT, scores.mask_BT)


def summarize_quality(rows: Sequence[AnswerQuality]) -> dict[str, float]:
    """Return the mean of each figure over the answers."""
    return {name: fmean(getattr(row, name) for row in rows) for name in ("fluency", "surprise", "topic", "leak")}
