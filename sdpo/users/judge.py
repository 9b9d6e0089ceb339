"""Judges: which of two completions fits a persona better, asked in both orders."""

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

# The complete reply, apart from marks that a model may put around it. A letter elsewhere is not a verdict.
_FORM = re.compile(r"[\s\"'*`]*verdict:[\s*]*([ABC])[\s\"'*`.]*", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """Two completions of one prompt, and the persona by whose preferences they are compared."""

    persona: str
    prompt: str
    first: str
    second: str

    def swapped(self) -> "Pair":
        """Return the pair with its completions in the other order."""
        return Pair(self.persona, self.prompt, self.second, self.first)


class Judge(Protocol):
    """Gives a verdict on each pair, in the order in which the pair has its completions."""

    def verdicts(self, pairs: Sequence[Pair]) -> Sequence[str | None]:
        """Return A (first), B (second) or C (neither) for each pair; None if the reply was not a verdict."""
        ...


class LocalJudge:
    """A model in this process. Its verdict is the most probable of the three replies in VERDICTS."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int = 32) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self._reply_ids = {label: encode_completion(tokenizer, reply) for label, reply in VERDICTS.items()}

    @torch.no_grad()
    def verdicts(self, pairs: Sequence[Pair]) -> list[str]:
        """Return A, B or C for each pair, in its given order only."""
        contexts: list[list[int]] = []
        completions: list[list[int]] = []
        for pair in pairs:
            ids = encode_prompt(self.tokenizer, judge_messages(pair.persona, pair.prompt, pair.first, pair.second))
            contexts += [ids] * len(self._reply_ids)
            completions += self._reply_ids.values()
        scores = score(self.model, contexts, completions, self.batch_size * len(self._reply_ids))
        best = scores.logps_BT.sum(1).view(-1, len(self._reply_ids)).argmax(1).tolist()
        return [list(self._reply_ids)[index] for index in best]


class ApiJudge:
    """A model behind an API. If a reply is not a verdict, the judge is asked once more."""

    MAX_TOKENS = 64

    def __init__(self, client: Client) -> None:
        self.client = client

    def verdicts(self, pairs: Sequence[Pair]) -> list[str | None]:
        """Return A, B or C for each pair, in its given order only; None if neither of two replies was a verdict.

        Raises ServerError if any request failed. The replies to the others are in the client's reply cache.
        """
        verdicts = self._ask(pairs, again=False)
        unread = [index for index, verdict in enumerate(verdicts) if verdict is None]
        for index, verdict in zip(unread, self._ask([pairs[index] for index in unread], again=True), strict=True):
            verdicts[index] = verdict
        return verdicts

    def _ask(self, pairs: Sequence[Pair], again: bool) -> list[str | None]:
        requests = [judge_messages(pair.persona, pair.prompt, pair.first, pair.second, again) for pair in pairs]
        replies = self.client.complete(
            [Request(messages, 0.0, self.MAX_TOKENS, schema=VERDICT_SCHEMA) for messages in requests]
        )
        failed = [reply for reply in replies if isinstance(reply, ServerError)]
        if failed:
            raise ServerError(
                f"{len(failed)} of {len(replies)} verdicts of the judge ({self.client.name}) are missing. "
                f"First error: {one_line(failed[0], 200)} Run the same command again: it asks only for those."
            )
        return [read_verdict(reply.text) for reply in replies if not isinstance(reply, ServerError)]


def read_verdict(text: str) -> str | None:
    """Return A, B or C if the complete reply is a verdict, as text or as JSON, otherwise None."""
    if match := _FORM.fullmatch(text):
        return match[1].upper()
    try:
        reply = json.loads(text)
    except ValueError:
        return None
    verdict = reply.get("verdict") if isinstance(reply, dict) and len(reply) == 1 else None
    return verdict if isinstance(verdict, str) and verdict in VERDICTS else None


# The verdicts on a pair and on the same pair swapped.
VerdictPair = tuple[str | None, str | None]


def verdicts_in_both_orders(judge: Judge, pairs: Sequence[Pair]) -> list[VerdictPair]:
    """Return the verdicts on each pair and on the same pair swapped, all requested at once."""
    verdicts = judge.verdicts([*pairs, *(pair.swapped() for pair in pairs)])
    return list(zip(verdicts[: len(pairs)], verdicts[len(pairs) :], strict=True))


def outcome(verdict_pair: VerdictPair) -> str:
    """Return first, second or tie: a completion wins only if both orders name it."""
    winners: dict[VerdictPair, str] = {("A", "B"): "first", ("B", "A"): "second"}
    return winners.get(verdict_pair, "tie")


def compare_in_both_orders(judge: Judge, pairs: Sequence[Pair]) -> list[str]:
    """Return first, second or tie for each pair."""
    return [outcome(verdict_pair) for verdict_pair in verdicts_in_both_orders(judge, pairs)]
