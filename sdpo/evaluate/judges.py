"""The judges of an evaluation: checked before any model is loaded, then asked about every pair once, in both orders.

Importing this is cheap.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sdpo import progress
from sdpo.errors import SettingError, nearest
from sdpo.evaluate.fingerprints import base_of
from sdpo.evaluate.store import Store, key_of
from sdpo.llm import (
    ClaudeBackend,
    Client,
    Meter,
    OpenAIBackend,
    ReplyCache,
    is_loopback,
    price_for,
    price_of,
    read_prices,
    require_claude,
)
from sdpo.settings import EvalSettings
from sdpo.settings.training import RULE
from sdpo.tiny import MODEL_DIR

if TYPE_CHECKING:
    from accelerate import PartialState

    from sdpo.evaluate.models import EvaluatedModel, ModelCache
    from sdpo.runtime.launch import Job
    from sdpo.users.judge import Pair, VerdictPair
    from sdpo.users.oracle import Oracle

ORACLE, SHIPPED = "oracle", "tiny"  # values of JUDGE_MODEL: the oracle of model and style, the shipped tiny model


def judge_kind(judge: str, settings: EvalSettings) -> str:
    """Return the kind of a judge: oracle, claude, server or local."""
    if judge in (ORACLE, RULE):
        return ORACLE
    if judge.startswith("claude-"):
        return "claude"
    return "server" if settings.judge_url and judge != SHIPPED else "local"


def check_judge(judge: str, settings: EvalSettings, job: "Job", check_path: Callable[[str, str], None]) -> None:
    """Raise SettingError if a judge cannot be used, or if MAX_COST is set and its price is unknown.

    `check_path(setting, value)` checks the folder of a judge that is loaded in this job.
    """
    kind = judge_kind(judge, settings)
    if kind == ORACLE:
        make_oracle(settings, job)
    elif kind == "local":
        _refuse_misspelt(judge)
        check_path("judge_model", judge_source(judge))
    elif kind == "claude":
        require_claude(judge, settings.anthropic_api_key, "JUDGE_MODEL")
    price_for(judge, settings.price_file, settings.max_cost, _costs_money(kind, settings))


def _refuse_misspelt(judge: str) -> None:
    """Raise SettingError for what looks like one of the names that stand for a judge."""
    names = (RULE, ORACLE, SHIPPED)
    hint = "" if judge in names or "/" in judge or Path(judge).exists() else nearest(judge, names, cutoff=0.7)
    if hint:
        raise SettingError(
            f"JUDGE_MODEL={judge} is not a judge.{hint} Judges are {', '.join(names)}, a claude-... name, and a "
            "model's folder, hub id, or name at JUDGE_URL."
        )


def _costs_money(kind: str, settings: EvalSettings) -> bool:
    """Return whether a judge of this kind is behind an API that may charge: a server on this machine does not."""
    if kind == "server" and settings.judge_url is not None:
        return not is_loopback(settings.judge_url)
    return kind == "claude"


def make_oracle(settings: EvalSettings, job: "Job") -> "Oracle":
    """Return the oracle of the evaluated style. Raises SettingError if there is none for it, or no style is set."""
    baseline = settings.baseline or ""
    oracle = job.find_oracle(base_of(baseline) or baseline, settings.style, settings.style_file)
    if oracle is None:
        missing = "STYLE is not set" if settings.style is None else f"no rule checks STYLE={settings.style}"
        raise SettingError(f"JUDGE_MODEL={ORACLE} or {RULE} cannot be used: {missing}. Choose another judge.")
    return oracle


def reader(job: "Job", model: str, style: str | None, style_file: Path | None) -> "Oracle | None":
    """Return the oracle that reads a style in a model's answers; None if there is none, or no such style for it."""
    try:
        return job.find_oracle(model, style, style_file)
    except SettingError:
        return None


def judge_source(judge: str) -> str:
    """Return the hub name or folder that a judge loaded in this job is read from."""
    return str(MODEL_DIR) if judge == SHIPPED else judge


class PairwiseJudge(Protocol):
    """A judge that compares the answers of each pair in both orders."""

    def verdict_pairs(self, pairs: Sequence["Pair"], under: progress.Task) -> list["VerdictPair"]:
        """Return the verdicts on each pair in both orders; `under` shows how many are done."""
        ...


class OracleJudge:
    """The job's oracle: a program that determines the style of an answer exactly."""

    def __init__(self, oracle: "Oracle") -> None:
        self.oracle = oracle

    def verdict_pairs(self, pairs: Sequence["Pair"], under: progress.Task) -> list["VerdictPair"]:
        """Return the verdicts on each pair in both orders."""
        return [
            (
                self.oracle.verdict(pair.first, pair.second, pair.prompt),
                self.oracle.verdict(pair.second, pair.first, pair.prompt),
            )
            for pair in pairs
        ]


class LocalPairwiseJudge:
    """A judge loaded in this job; its verdicts are stored by its weights, its dtype and the pair.

    `verdict_pairs` is collective: the pairs are divided among the processes, and every process gets all verdicts.
    """

    def __init__(
        self,
        model: "EvaluatedModel",
        weights: str,
        store: Store,
        model_cache: "ModelCache",
        state: "PartialState",
        batch_size: int,
    ) -> None:
        self.model, self.weights, self.batch_size = model, weights, batch_size
        self.store, self.model_cache, self.state = store, model_cache, state

    def verdict_pairs(self, pairs: Sequence["Pair"], under: progress.Task) -> list["VerdictPair"]:
        """Return the verdicts on each pair in both orders."""
        from accelerate.utils import gather_object

        keys = [key_of(self.weights, str(self.model_cache.dtype), pair.content) for pair in pairs]
        missing = [index for index, key in enumerate(keys) if key not in self.store]
        if missing:
            missing.sort(key=lambda index: len(pairs[index].first) + len(pairs[index].second))
            batches = [missing[start : start + self.batch_size] for start in range(0, len(missing), self.batch_size)]
            new = self._judge(pairs, keys, batches[self.state.process_index :: self.state.num_processes], under)
            for values in gather_object([new]):
                self.store.merge(values)
        return [tuple(self.store[key]) for key in keys]

    def _judge(
        self,
        pairs: Sequence["Pair"],
        keys: Sequence[str],
        batches: Sequence[list[int]],
        under: progress.Task,
    ) -> dict[str, list]:
        """Judge and store this process's batches of indices into `pairs`; return the new verdicts by key."""
        from sdpo.evaluate.models import tokenizer_of
        from sdpo.users.judge import LocalJudge, verdicts_in_both_orders

        new: dict[str, list] = {}
        if not batches:
            return new
        judge = LocalJudge(self.model_cache.load(self.model), tokenizer_of(self.model), self.batch_size)
        for done, batch in enumerate(batches):
            under.done = done * self.batch_size * self.state.num_processes
            verdict_pairs = verdicts_in_both_orders(judge, [pairs[index] for index in batch])
            by_key = {keys[index]: list(verdict_pair) for index, verdict_pair in zip(batch, verdict_pairs, strict=True)}
            self.store.add(by_key)
            new |= by_key
        return new


class ApiPairwiseJudge:
    """A judge behind an API; only the main process asks it. Its replies are cached in a file of its own in `folder`.

    `spent` is what the other judges of this evaluation have cost so far, in dollars, their cached replies included;
    MAX_COST is the limit for all.
    """

    def __init__(self, judge: str, settings: EvalSettings, folder: Path, spent: float) -> None:
        price = price_of(judge, read_prices(settings.price_file))
        cache = _reply_cache(judge, folder)
        limit = settings.max_cost - spent if settings.max_cost is not None else None
        self.client = Client(
            _backend(judge, settings),
            settings.concurrency,
            settings.judge_timeout,
            cache=cache,
            meter=Meter(price, limit, cache.paid),
        )

    def verdict_pairs(self, pairs: Sequence["Pair"], under: progress.Task) -> list["VerdictPair"]:
        """Return the verdicts on each pair in both orders. Raises ServerError if any request failed."""
        from sdpo.users.judge import ApiJudge, verdicts_in_both_orders

        judge, size = ApiJudge(self.client), 4 * self.client.concurrency
        verdict_pairs: list[VerdictPair] = []
        for start in range(0, len(pairs), size):  # in chunks, so that progress can be reported in between
            under.done = start
            verdict_pairs += verdicts_in_both_orders(judge, pairs[start : start + size])
        return verdict_pairs


def cached_cost(judge: str, settings: EvalSettings, folder: Path) -> float:
    """Return what a judge's replies in `folder` have cost, in dollars; 0 without a price."""
    price = price_of(judge, read_prices(settings.price_file))
    return Meter(price, paid=_reply_cache(judge, folder).paid).usage.cost


def _reply_cache(judge: str, folder: Path) -> ReplyCache:
    return ReplyCache(folder / f"replies-{_file_name(judge)}.jsonl")


def _backend(judge: str, settings: EvalSettings) -> ClaudeBackend | OpenAIBackend:
    if judge_kind(judge, settings) == "claude":
        return ClaudeBackend(judge, settings.anthropic_api_key, model_setting="JUDGE_MODEL")
    if settings.judge_url is None:
        raise SettingError(f"JUDGE_MODEL={judge} needs JUDGE_URL.")
    return OpenAIBackend(
        settings.judge_url,
        judge,
        settings.judge_api_key,
        url_setting="JUDGE_URL",
        model_setting="JUDGE_MODEL",
        key_setting="JUDGE_API_KEY",
    )


def _file_name(judge: str) -> str:
    return "".join(char if char.isalnum() or char in "-._" else "-" for char in judge).strip("-.")
