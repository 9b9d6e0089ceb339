"""A judge: which of two completions fits a persona's taste better, asked in both orders."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sdpo.errors import ServerError, one_line
from sdpo.llm import Client, Request
from sdpo.method.scoring import score
from sdpo.text.chat import encode_completion, encode_prompt
from sdpo.text.prompts import VERDICT_SCHEMA, VERDICTS, judge_messages

# The whole reply, but for marks that a model may put around it: a letter elsewhere is no verdict.
_FORM = re.compile(r"[\s\"'*`]*verdict:[\s*]*([ABC])[\s\"'*`.]*", re.IGNORECASE)


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


class Judge(Protocol):
    """Whatever gives a verdict on pairs as they stand."""

    def verdicts(self, pairs: Sequence[Pair]) -> list[str | None]:
        """Return A, B or C for each pair, None where what the judge said is no verdict."""


class LocalJudge:
    """A model in this process; its verdict is the reply form to which it gives the highest probability."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 32) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self._collect_follow_ups = {label: encode_completion(tokenizer, reply) for label, reply in VERDICTS.items()}

    @torch.no_grad()
    def verdicts(self, pairs: Sequence[Pair]) -> list[str]:
        """Return A, B or C for each pair as it stands, in this one order."""
        contexts, completions = [], []
        for pair in pairs:
            ids = encode_prompt(self.tokenizer, judge_messages(pair.persona, pair.prompt, pair.first, pair.second))
            contexts += [ids] * len(self._collect_follow_ups)
            completions += self._collect_follow_ups.values()
        scores = score(self.model, contexts, completions, self.batch_size * len(self._collect_follow_ups))
        best = scores.logps_BT.sum(1).view(-1, len(self._collect_follow_ups)).argmax(1).tolist()
        return [list(self._collect_follow_ups)[index] for index in best]


class ApiJudge:
    """A model behind an API. A reply that is no verdict is asked for once more."""

    MAX_TOKENS = 64

    def __init__(self, client: Client) -> None:
        self.client = client

    def verdicts(self, pairs: Sequence[Pair]) -> list[str | None]:
        """Return A, B or C for each pair as it stands, in this one order; None for what was none on either try.

        Raises ServerError where any did not come; those that came are in the client's cache.
        """
        verdicts = self._ask(pairs, again=False)
        unread = [place for place, verdict in enumerate(verdicts) if verdict is None]
        for place, verdict in zip(unread, self._ask([pairs[place] for place in unread], again=True), strict=True):
            verdicts[place] = verdict
        return verdicts

    def _ask(self, pairs: Sequence[Pair], again: bool) -> list[str | None]:
        requests = [judge_messages(pair.persona, pair.prompt, pair.first, pair.second, again) for pair in pairs]
        replies = self.client.complete(
            [Request(messages, 0.0, self.MAX_TOKENS, schema=VERDICT_SCHEMA) for messages in requests]
        )
        failed = [reply for reply in replies if isinstance(reply, ServerError)]
        if failed:
            raise ServerError(
                f"{len(failed)} of {len(replies)} verdicts of the judge ({self.client.name}) did not come. "
                f"First cause: {one_line(failed[0], 200)} Run the same command again: it asks only for those."
            )
        return [read_verdict(reply.text) for reply in replies]


def read_verdict(text: str) -> str | None:
    """Return A, B or C where the whole reply is a verdict in one of its two forms, else None."""
    if found := _FORM.fullmatch(text):
        return found[1].upper()
    try:
        reply = json.loads(text)
    except ValueError:
        return None
    verdict = reply.get("verdict") if isinstance(reply, dict) and len(reply) == 1 else None
    return verdict if isinstance(verdict, str) and verdict in VERDICTS else None


# What the judge said of a pair as it stands, and of the same pair swapped.
VerdictPair = tuple[str | None, str | None]


def verdicts_in_both_orders(judge: Judge, pairs: Sequence[Pair]) -> list[VerdictPair]:
    """Return for each pair the verdict on it as it stands and on it swapped, asked for all at once."""
    verdicts = judge.verdicts([*pairs, *(pair.swapped() for pair in pairs)])
    return list(zip(verdicts[: len(pairs)], verdicts[len(pairs) :], strict=True))


def outcome(verdict_pairs: VerdictPair) -> str:
    """Return first, second or tie: a side wins only where both orders name it."""
    return {("A", "B"): "first", ("B", "A"): "second"}.get(verdict_pairs, "tie")


def compare_in_both_orders(judge: Judge, pairs: Sequence[Pair]) -> list[str]:
    """Return first, second or tie for each pair."""
    return [outcome(verdict_pairs) for verdict_pairs in verdicts_in_both_orders(judge, pairs)]
