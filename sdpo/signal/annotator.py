"""Labels for the audit: the kind of a follow-up, and which of two answers suits it better.

On real data models give the labels, in the tiny world the oracle does.
"""

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from sdpo.english.follow_up_kinds import FollowUpReader
from sdpo.english.oracle import EnglishOracle
from sdpo.llm import Backend, ClaudeBackend, Client, Meter, OpenAIBackend, ReplyCache, price_of, read_prices
from sdpo.settings.training import RULE
from sdpo.signal.loaded_model import LoadedModel
from sdpo.text.prompts import FOLLOW_UP_PERSONA, UNRELATED_FOLLOW_UPS, earlier_turns
from sdpo.text.records import Interaction
from sdpo.tiny import language, oracle
from sdpo.users.judge import ApiJudge, Judge, LocalJudge, Pair, compare_in_both_orders
from sdpo.users.styles import own_styles

if TYPE_CHECKING:
    from pathlib import Path

    from sdpo.settings import AuditSettings

ORACLE = "oracle"
_OUTCOMES = {"A": "first", "B": "second", "C": "tie"}
_KIND_OF = {"request": "complaint", "thanks": "thanks", "unrelated": "new topic", "unreadable": "new topic"}


class Annotator:
    """Labels follow-ups and answers with the models that the settings name; only with `tiny` with the oracle."""

    def __init__(self, settings: "AuditSettings", folder: "Path") -> None:
        self.tiny = settings.tiny
        self._judge_name, self._settings, self._folder = settings.judge_model, settings, folder
        self._judge: Judge | None = None

    def unrelated(self, seed: int) -> list[str]:
        """Return follow-ups that have nothing to do with any answer."""
        rng = Random(seed)
        if self.tiny:
            return [language.write_unrelated(rng, held=True) for _ in range(64)]
        return list(UNRELATED_FOLLOW_UPS)

    def kinds(self, rows: Sequence[Interaction], subject: LoadedModel) -> list[str]:
        """Return the kind of each follow-up: the oracle's label, or what the model's hidden states say."""
        if self.tiny:
            return [_KIND_OF[oracle.read_follow_up(row.user_response).kind] for row in rows]
        return FollowUpReader(subject.run, subject.tokenizer).kinds([row.user_response for row in rows])

    def preferred(
        self, rows: Sequence[Interaction], firsts: Sequence[str], seconds: Sequence[str], subject: LoadedModel
    ) -> list[str]:
        """Return "first", "second" or "tie" for each row: which of its two answers suits its follow-up better."""
        if self._judge_name == RULE:
            style = self._settings.style or ""
            checker = EnglishOracle(style, own_styles(self._settings.style_file).get(style))
            triples = zip(firsts, seconds, (row.prompt[-1]["content"] for row in rows), strict=True)
            return [_OUTCOMES[checker.verdict(*triple)] for triple in triples]
        if self._judge_name == ORACLE:
            wants = [oracle.read_follow_up(row.user_response).wanted for row in rows]
            verdicts = [oracle.verdict(*pair) for pair in zip(firsts, seconds, wants, strict=True)]
            return [_OUTCOMES[verdict] for verdict in verdicts]
        pairs = [
            Pair(
                FOLLOW_UP_PERSONA.format(follow_up=row.user_response), row.prompt[-1]["content"], first, second,
                earlier_turns(row.prompt),
            )
            for row, first, second in zip(rows, firsts, seconds, strict=True)
        ]  # fmt: skip
        return compare_in_both_orders(self._judge_for(subject), pairs)

    def judge_name(self, subject: LoadedModel) -> str:
        """Return the judge's name for reports."""
        return self._judge_name or f"{subject.name} itself"

    def _judge_for(self, subject: LoadedModel) -> Judge:
        if self._judge_name is None:
            return LocalJudge(subject.model, subject.tokenizer, max(1, subject.batch_size // 3))
        if self._judge is None:
            self._judge = self._build_judge(self._judge_name)
        return self._judge

    def _build_judge(self, name: str) -> Judge:
        settings = self._settings
        if settings.judge_url is None and not name.startswith("claude-"):
            other = LoadedModel.load(name, settings.precision, settings.bs)
            return LocalJudge(other.model, other.tokenizer, max(1, settings.bs // 3))
        backend: Backend
        if settings.judge_url is None:
            backend = ClaudeBackend(name, settings.anthropic_api_key, model_setting="JUDGE_MODEL")
        else:
            backend = OpenAIBackend(
                settings.judge_url,
                name,
                settings.judge_api_key,
                url_setting="JUDGE_URL",
                model_setting="JUDGE_MODEL",
                key_setting="JUDGE_API_KEY",
            )
        cache = ReplyCache(self._folder / "replies-judge.jsonl")
        meter = Meter(price_of(name, read_prices(settings.price_file)), settings.max_cost, cache.paid)
        return ApiJudge(Client(backend, settings.concurrency, cache=cache, meter=meter))
