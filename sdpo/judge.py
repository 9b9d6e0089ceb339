"""A judge: which of two completions fits a persona's taste better, asked in both orders."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sdpo.chat import encode_completion, encode_prompt
from sdpo.prompts import VERDICTS, judge_messages
from sdpo.scoring import score


@dataclass(frozen=True)
class Pair:
    """Two completions of one prompt, and the taste they are compared by."""

    persona: str
    prompt: str
    first: str
    second: str

    def swapped(self) -> "Pair":
        """Return the pair in the other order."""
        return Pair(self.persona, self.prompt, self.second, self.first)


class LocalJudge:
    """A model in this process; its verdict is the reply form to which it gives the highest probability."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 32) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self._replies = {label: encode_completion(tokenizer, reply) for label, reply in VERDICTS.items()}

    @torch.no_grad()
    def verdicts(self, pairs: Sequence[Pair]) -> list[str]:
        """Return A, B or C for each pair as it stands, in this one order."""
        contexts, completions = [], []
        for pair in pairs:
            ids = encode_prompt(self.tokenizer, judge_messages(pair.persona, pair.prompt, pair.first, pair.second))
            contexts += [ids] * len(self._replies)
            completions += self._replies.values()
        scores = score(self.model, contexts, completions, self.batch_size * len(self._replies))
        best = scores.logps_BT.sum(1).view(-1, len(self._replies)).argmax(1).tolist()
        return [list(self._replies)[index] for index in best]


def both_orders(judge: LocalJudge, pairs: Sequence[Pair]) -> list[str]:
    """Return first, second or tie: a side wins only where both orders name it."""
    ways = zip(judge.verdicts(pairs), judge.verdicts([pair.swapped() for pair in pairs]), strict=True)
    return [{("A", "B"): "first", ("B", "A"): "second"}.get(way, "tie") for way in ways]
