"""Tells complaints, thanks and new topics apart, with any model and without a prompt.

Prompted to sort messages, a model of half a billion parameters does hardly better than chance; its hidden states
separate them well. So a linear classifier (multinomial logistic regression) reads the hidden states of a message at a
few layers: their mean over its tokens, and that of its last token. It is fitted in seconds to labelled messages of our
own.
"""

import json
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerBase

from sdpo import progress
from sdpo.english import FOLLOW_UPS_FILE
from sdpo.english.styles import STYLES, complaints, praise, unrelated
from sdpo.text.chat import encode_text
from sdpo.text.prompts import FOLLOW_UP_KINDS

MAX_TOKENS = 128  # the beginning of a message that is read
BATCH = 32
LAYERS = (1 / 3, 1 / 2, 2 / 3, 5 / 6)  # which hidden states are read, as shares of the model's depth
WEIGHT_DECAY = 0.01
SCALE = 10.0  # of the logits: standardised features, divided by the square root of their number, are small

# Calls the function with a model in evaluation mode, without gradient, and returns the result.
WithModel = Callable[[Callable[[Any], Tensor]], Tensor]


def labelled_messages(split: str) -> list[tuple[str, str]]:
    """Return (message, kind) for a split, "train" or "test": wordings of the rule users, and messages as people write.

    The kinds are FOLLOW_UP_KINDS. The test split has the wordings that training never draws.
    """
    held_out = split == "test"
    complaint, thanks, new_topic = FOLLOW_UP_KINDS
    wordings = [(text, complaint) for style in STYLES for text in complaints(style, held_out)]
    wordings += [(text, thanks) for text in praise(held_out)] + [(text, new_topic) for text in unrelated(held_out)]
    return wordings + [(row["text"], row["kind"]) for row in _messages() if row["split"] == split]


class FollowUpReader:
    """A fitted classifier of messages. `kinds` and `probabilities` read messages with the model that it was fitted to.

    With several processes each must call them for the same number of messages: all take part in a forward pass.
    """

    def __init__(self, with_model: WithModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self._with_model, self._tokenizer = with_model, tokenizer
        rows = labelled_messages("train")
        features_NF = self._features([text for text, _ in rows])
        self._mean_F, self._deviation_F = features_NF.mean(0), features_NF.std(0) + 1e-5
        labels_N = torch.tensor([FOLLOW_UP_KINDS.index(kind) for _, kind in rows])
        self._weights_FK, self._bias_K = _fit(self._standardised(features_NF), labels_N, len(FOLLOW_UP_KINDS))

    def probabilities(self, messages: Sequence[str]) -> Tensor:
        """Return the probability of each kind, (N, 3) in the order of FOLLOW_UP_KINDS."""
        standardised_NF = self._standardised(self._features(messages))
        return (SCALE * standardised_NF @ self._weights_FK + self._bias_K).softmax(-1)

    def kinds(self, messages: Sequence[str]) -> list[str]:
        """Return the likeliest kind of each message."""
        if not messages:
            return []
        return [FOLLOW_UP_KINDS[index] for index in self.probabilities(messages).argmax(-1).tolist()]

    def _standardised(self, features_NF: Tensor) -> Tensor:
        return (features_NF - self._mean_F) / self._deviation_F / features_NF.shape[1] ** 0.5

    def _features(self, messages: Sequence[str]) -> Tensor:
        """Return the hidden states of each message, (N, F) float32 on the CPU."""
        rows = [encode_text(self._tokenizer, text)[:MAX_TOKENS] or [0] for text in messages]
        parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        read = progress.each(parts, "reading messages", "batches")
        return torch.cat([self._with_model(partial(message_features, rows=part)) for part in read])


def message_features(model: Any, rows: Sequence[list[int]]) -> Tensor:
    """Return the hidden states of each row of token ids, (N, F) float32 on the CPU.

    F is that of the LAYERS, each with the mean over the row's tokens and the last token. The first token is left out
    of the mean where there are others: in many models its state is of another size, whatever it is.
    """
    device = next(model.parameters()).device
    length = max(map(len, rows))
    ids_BL = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=device)
    mask_BL = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows], device=device)
    output = model(
        input_ids=ids_BL, attention_mask=mask_BL, output_hidden_states=True, use_cache=False, logits_to_keep=1
    )
    counted_BL = mask_BL.clone().float()
    counted_BL[:, 0] = (mask_BL.sum(1) == 1).float()
    last_B, rows_B = mask_BL.sum(1) - 1, torch.arange(len(rows), device=device)
    features = []
    for share in LAYERS:
        hidden_BLH = output.hidden_states[round(share * (len(output.hidden_states) - 1))].float()
        features += [
            (hidden_BLH * counted_BL[:, :, None]).sum(1) / counted_BL.sum(1, keepdim=True),
            hidden_BLH[rows_B, last_B],
        ]
    return torch.cat(features, dim=-1).cpu()


def _fit(features_NF: Tensor, labels_N: Tensor, kinds: int) -> tuple[Tensor, Tensor]:
    """Return weights (F, K) and bias (K,) of the logistic regression; each kind counts the same in total."""
    weights_FK = torch.zeros(features_NF.shape[1], kinds, requires_grad=True)
    bias_K = torch.zeros(kinds, requires_grad=True)
    balance_K = len(labels_N) / kinds / torch.bincount(labels_N, minlength=kinds).clamp(min=1)
    optimizer = torch.optim.LBFGS([weights_FK, bias_K], max_iter=200)

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits_NK = SCALE * features_NF @ weights_FK + bias_K
        value = cross_entropy(logits_NK, labels_N, weight=balance_K) + WEIGHT_DECAY * weights_FK.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return weights_FK.detach(), bias_K.detach()


@cache
def _messages() -> tuple[dict[str, str], ...]:
    return tuple(json.loads(line) for line in FOLLOW_UPS_FILE.read_text("utf-8").splitlines())
