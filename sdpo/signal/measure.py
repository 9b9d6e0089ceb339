"""A model under scrutiny: what it answers, and what a follow-up shown in hindsight does to each token of an answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sdpo.method.scoring import score, top_alternatives
from sdpo.models.generate import generate
from sdpo.models.pretrained import load_tokenizer, load_weights, silence_libraries
from sdpo.text.chat import encode_completion, encode_prompt, encode_text
from sdpo.text.prompts import HINDSIGHT, Message, with_hindsight

Progress = Callable[[int, int], None]


@dataclass
class LoadedModel:
    """A model, its tokenizer, and how many rows it is given at once."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch_size: int = 8

    @classmethod
    def load(cls, name: str, precision: str = "auto", batch_size: int = 8) -> "LoadedModel":
        """Return the model on the GPU where there is one. Raises SettingError where it cannot be used."""
        silence_libraries()
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        tokenizer, model = load_tokenizer(name, "MODEL"), load_weights(name, "MODEL", dtype)
        model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval().requires_grad_(False)
        return cls(name, model, tokenizer, batch_size)

    @property
    def longest(self) -> int:
        """The most tokens that the model can be given."""
        return self.model.config.get_text_config().max_position_embeddings

    def context(self, messages: Sequence[Message], follow_up: str | None = None, template: str = HINDSIGHT) -> list:
        """Return the ids of a request, with a follow-up shown in hindsight unless it is None."""
        shown = list(messages) if follow_up is None else with_hindsight(list(messages), follow_up, template)
        return encode_prompt(self.tokenizer, shown)

    def completion(self, text: str, finished: bool = True) -> list[int]:
        """Return the ids of an answer; with its end token unless it was cut off."""
        ids = encode_completion(self.tokenizer, text) if finished else encode_text(self.tokenizer, text)
        return ids or [self.tokenizer.eos_token_id]

    def answer(
        self,
        contexts: Sequence[list[int]],
        length: int,
        temperature: float,
        seed: int,
        progress: Progress | None = None,
    ) -> list[tuple[str, bool]]:
        """Return an answer to each context, and whether the model ended it itself."""
        return generate(
            self.model, self.tokenizer, list(contexts), length, self.batch_size, temperature, seed, progress
        )

    @torch.no_grad()
    def logps(
        self, contexts: Sequence[list[int]], completions: Sequence[list[int]], progress: Progress | None = None
    ) -> list[list[float]]:
        """Return log π(y_t | context, y_<t) of each completion's tokens, in nats."""
        # Rows of like length together: little is padded, and no batch is longer than it has to be.
        order = sorted(range(len(contexts)), key=lambda row: len(contexts[row]) + len(completions[row]), reverse=True)
        found: list[list[float]] = [[] for _ in contexts]
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            scores = score(self.model, [contexts[row] for row in rows], [completions[row] for row in rows])
            for row, logps in zip(rows, scores.logps_BT.tolist(), strict=True):
                found[row] = logps[: len(completions[row])]
            if progress:
                progress(start + len(rows), len(order))
        return found

    def alternatives(self, context: list[int], completion: list[int], count: int) -> list[list[tuple[str, float]]]:
        """Return for each place of a completion the likeliest tokens and their probabilities, likeliest first."""
        if not count:
            return [[] for _ in completion]
        logps_TK, ids_TK = top_alternatives(self.model, context, completion, count)
        return [
            [(self.tokenizer.decode([token]), logp) for token, logp in zip(ids, logps, strict=True)]
            for ids, logps in zip(ids_TK.tolist(), logps_TK.exp().tolist(), strict=True)
        ]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each token, control tokens included; together they are the text of all.

        A character that several tokens make up is the text of the last of them, the ones before it have none.
        """
        texts, start = [], 0
        for stop in range(1, len(ids) + 1):
            # A few tokens before it: some tokenizers drop the space of a text's first word.
            before = self.tokenizer.decode(list(ids[max(0, start - 4) : start]))
            text = self.tokenizer.decode(list(ids[max(0, start - 4) : stop]))[len(before) :]
            unfinished = text.endswith("�") and stop - start < 4 and stop < len(ids)
            texts.append("" if unfinished else text)
            start = start if unfinished else stop
        return texts


def signal_of(hindsight: Sequence[float], bare: Sequence[float]) -> list[float]:
    """Return log π(y_t | x, o, y_<t) − log π(y_t | x, y_<t) of each token."""
    return [later - before for later, before in zip(hindsight, bare, strict=True)]


def size_of(signal: Sequence[float]) -> float:
    """Return the mean |signal| per token, in nats."""
    return sum(map(abs, signal)) / len(signal)


def say(words: str) -> Progress:
    """Return a progress report that prints a line now and then: at each tenth of the way."""
    reached = [0]

    def report(done: int, total: int) -> None:
        tenth = 10 * done // total
        if tenth > reached[0]:
            reached[0] = tenth
            print(f"  {words}: {done} of {total}", flush=True)

    return report
