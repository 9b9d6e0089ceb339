"""The model that is analysed or audited: sampling answers, scoring tokens with and without hindsight."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sdpo import progress
from sdpo.method.loss import Contexts
from sdpo.method.objective import Objective
from sdpo.method.scoring import Scores, score, top_alternatives
from sdpo.models.generate import generate
from sdpo.models.pretrained import load_tokenizer, load_weights, silence_libraries
from sdpo.models.target_answers import sample_from_target
from sdpo.text.chat import encode_answer, encode_prompt
from sdpo.text.hindsight import HINDSIGHT, HindsightTemplate, with_hindsight
from sdpo.text.prompts import Message


@dataclass
class LoadedModel:
    """A model, its tokenizer, and how many rows go through the model in one batch."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 8

    @classmethod
    def load(cls, name: str, precision: str = "auto", batch_size: int = 8) -> "LoadedModel":
        """Return the model, on the GPU if there is one. Raises SettingError if it cannot be used."""
        silence_libraries()
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        tokenizer, model = load_tokenizer(name, "MODEL"), load_weights(name, "MODEL", dtype)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model.to(device)  # type: ignore[arg-type]  # transformers' decorator hides that this is a method
        model.eval().requires_grad_(False)
        return cls(name, model, tokenizer, batch_size)

    @property
    def max_length(self) -> int:
        """The longest sequence that the model takes, in tokens."""
        return self.model.config.get_text_config().max_position_embeddings

    def context(
        self, messages: Sequence[Message], follow_up: str | None = None, template: HindsightTemplate = HINDSIGHT
    ) -> list[int]:
        """Return the token ids of a prompt; unless `follow_up` is None, of the hindsight context that shows it."""
        shown = list(messages) if follow_up is None else with_hindsight(list(messages), follow_up, template)
        return encode_prompt(self.tokenizer, shown)

    def completion(self, text: str, finished: bool = True) -> list[int]:
        """Return the token ids of an answer, with its end token unless it was truncated."""
        return encode_answer(self.tokenizer, text, finished)

    def answer(
        self,
        contexts: Sequence[list[int]],
        length: int,
        temperature: float,
        seed: int,
        label: str = "answers",
    ) -> list[tuple[str, bool]]:
        """Sample an answer of at most `length` tokens to each context.

        Returns (text, finished); `finished` is whether the model ended the answer itself.
        """
        return generate(self.model, self.tokenizer, list(contexts), length, self.batch_size, temperature, seed, label)

    def answer_from_target(
        self,
        contexts: Sequence[Contexts],
        objective: Objective,
        length: int,
        temperature: float,
        seed: int,
        label: str = "answers",
    ) -> list[tuple[str, bool]]:
        """Do the same from the target of training with NULL_CONTRAST, see `sample_from_target`."""
        return sample_from_target(
            self.model, self.tokenizer, contexts, objective, length, self.batch_size, temperature, seed, label
        )

    @torch.no_grad()
    def score(self, contexts: list[list[int]], completions: list[list[int]]) -> Scores:
        """Return the scores of completions with the entropy of each position."""
        return score(self.model, contexts, completions, self.batch_size, entropy=True)

    @torch.no_grad()
    def run(self, function: Callable[[Any], Tensor]) -> Tensor:
        """Return function(model), without gradient."""
        return function(self.model)

    @torch.no_grad()
    def logps(
        self, contexts: Sequence[list[int]], completions: Sequence[list[int]], label: str = "scoring"
    ) -> list[list[float]]:
        """Return log π(y_t | context, y_<t) of each completion's tokens, in nats."""
        # Batches of similar length need little padding.
        order = sorted(range(len(contexts)), key=lambda row: len(contexts[row]) + len(completions[row]), reverse=True)
        results: list[list[float]] = [[] for _ in contexts]
        for start in progress.each(range(0, len(order), self.batch_size), label, f"batches of {self.batch_size}"):
            rows = order[start : start + self.batch_size]
            scores = score(self.model, [contexts[row] for row in rows], [completions[row] for row in rows])
            for row, logps in zip(rows, scores.logps_BT.tolist(), strict=True):
                results[row] = logps[: len(completions[row])]
        return results

    def alternatives(self, context: list[int], completion: list[int], count: int) -> list[list[tuple[str, float]]]:
        """Return, for each position of a completion, the `count` most likely tokens with their probabilities.

        The most likely token is first. With `count` 0 the lists are empty.
        """
        if not count:
            return [[] for _ in completion]
        logps_TK, ids_TK = top_alternatives(self.model, context, completion, count)
        return [
            [(self._decode([token]), probability) for token, probability in zip(ids, probabilities, strict=True)]
            for ids, probabilities in zip(ids_TK.tolist(), logps_TK.exp().tolist(), strict=True)
        ]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each token, control tokens included; joined, they are the text of all tokens.

        A character that spans several tokens is the text of the last of them; the earlier ones have empty text.
        """
        texts, start = [], 0
        for stop in range(1, len(ids) + 1):
            # Decode with up to four earlier tokens: some tokenizers drop the space before the first word of a text.
            before = self._decode(ids[max(0, start - 4) : start])
            text = self._decode(ids[max(0, start - 4) : stop])[len(before) :]
            unfinished = text.endswith("�") and stop - start < 4 and stop < len(ids)
            texts.append("" if unfinished else text)
            start = start if unfinished else stop
        return texts

    def _decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids))  # type: ignore[return-value]  # only a batch of ids gives a list


def signal_of(hindsight: Sequence[float], bare: Sequence[float]) -> list[float]:
    """Return log π(y_t | x, o, y_<t) − log π(y_t | x, y_<t) of each token."""
    return [with_follow_up - without for with_follow_up, without in zip(hindsight, bare, strict=True)]


def size_of(signal: Sequence[float]) -> float:
    """Return the mean |signal| per token, in nats."""
    return sum(map(abs, signal)) / len(signal)
