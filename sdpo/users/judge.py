"""Judges: which of two completions fits a persona better, asked in both orders."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sdpo.errors import ServerError, one_line
from sdpo.llm import Client, Reply, Request
from sdpo.method.scoring import score
from sdpo.text.chat import encode_completion, encode_prompt
from sdpo.text.prompts import VERDICT_SCHEMA, VERDICTS, Message, judge_messages
from sdpo.users.usable import FirstReplies
from sdpo.users.verdict import read_verdict


@dataclass(frozen=True)
class Pair:
    """Two completions of one prompt, and the persona by whose preferences they are compared.

    `earlier` is what was said before the prompt, as `earlier_turns` returns it.
    """

    persona: str
    prompt: str
    first: str
    second: str
    earlier: str = ""

    def swapped(self) -> "Pair":
        """Return the pair with its completions in the other order."""
        return replace(self, first=self.second, second=self.first)

    @property
    def content(self) -> dict[str, str]:
        """The fields by name, `earlier` only if something was said: what a verdict depends on."""
        return {name: value for name, value in vars(self).items() if name != "earlier" or value}

    def messages(self, again: bool = False) -> list[Message]:
        """Return the messages to a judge, as `judge_messages` does."""
        return judge_messages(self.persona, self.prompt, self.first, self.second, again, self.earlier)


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
            ids = encode_prompt(self.tokenizer, pair.messages())
            contexts += [ids] * len(self._reply_ids)
            completions += self._reply_ids.values()
        scores = score(self.model, contexts, completions, self.batch_size * len(self._reply_ids))
        best = scores.logps_BT.sum(1).view(-1, len(self._reply_ids)).argmax(1).tolist()
        return [list(self._reply_ids)[index] for index in best]


class ApiJudge:
    """A model behind an API. If a reply is not a verdict, the judge is asked once more.

    A judge whose first reply is empty, or nothing but thoughts that the limit cut off, then has room to think.
    """

    MAX_TOKENS = 64
    MAX_TOKENS_WITH_THOUGHTS = 4096

    def __init__(self, client: Client) -> None:
        self.client = client
        self._first_verdicts = FirstReplies(
            f"verdicts of the judge ({client.name})",
            "Choose another JUDGE_MODEL: one that answers with a verdict and nothing else.",
            "It thinks aloud: start its server with thinking off, or choose a JUDGE_MODEL that does not think.",
        )

    def verdicts(self, pairs: Sequence[Pair]) -> list[str | None]:
        """Return A, B or C for each pair, in its given order only; None if neither of two replies was a verdict.

        Raises ServerError if any request failed; the replies to the others are in the client's reply cache. Raises
        UnusableReplies if most of the first verdicts cannot be read, before the other pairs are asked about.
        """
        verdicts: list[str | None] = []
        for part in (pairs[: self.client.concurrency], pairs[self.client.concurrency :]):
            replies = self._ask(part, [self.MAX_TOKENS] * len(part), again=False)
            unread = [index for index, reply in enumerate(replies) if read_verdict(reply.text) is None]
            limits = [self.MAX_TOKENS if replies[i].text.strip() else self.MAX_TOKENS_WITH_THOUGHTS for i in unread]
            for index, reply in zip(unread, self._ask([part[i] for i in unread], limits, again=True), strict=True):
                replies[index] = reply
            verdicts += (new := [read_verdict(reply.text) for reply in replies])
            self._first_verdicts.add([reply.written for reply in replies], [verdict is not None for verdict in new])
        return verdicts

    def _ask(self, pairs: Sequence[Pair], limits: Sequence[int], again: bool) -> list[Reply]:
        prompts = [pair.messages(again) for pair in pairs]
        replies = self.client.complete(
            [
                Request(messages, 0.0, limit, schema=VERDICT_SCHEMA)
                for messages, limit in zip(prompts, limits, strict=True)
            ]
        )
        failed = [reply for reply in replies if isinstance(reply, ServerError)]
        if failed:
            raise ServerError(
                f"{len(failed)} of {len(replies)} verdicts of the judge ({self.client.name}) are missing. "
                f"First error: {one_line(failed[0], 200)} Run the same command again: it asks only for those."
            )
        return [reply for reply in replies if not isinstance(reply, ServerError)]


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
