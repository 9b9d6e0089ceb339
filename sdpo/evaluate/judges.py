"""The judges of an evaluation: checked before anything is loaded, then asked about every pair once, in both orders.

Importing this is cheap.
"""

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sdpo.errors import SettingError
from sdpo.evaluate.store import Store, key_of
from sdpo.llm import (
    ClaudeBackend,
    Client,
    Meter,
    OpenAIBackend,
    ReplyCache,
    claude_url,
    is_loopback,
    price_of,
    read_prices,
)
from sdpo.settings import EvalSettings
from sdpo.tiny import MODEL_DIR

if TYPE_CHECKING:
    from accelerate import PartialState

    from sdpo.evaluate.models import EvaluatedModel, ModelCache
    from sdpo.users.judge import Pair, VerdictPair
    from sdpo.users.oracle import Oracle

ORACLE, SHIPPED = "oracle", "tiny"  # judges by these names are the tiny world's


def judge_kind(judge: str, settings: EvalSettings) -> str:
    """Return where a judge is: oracle, claude, server or local."""
    if judge == ORACLE:
        return ORACLE
    if judge.startswith("claude-"):
        return "claude"
    return "server" if settings.judge_url and judge != SHIPPED else "local"


def check_judges(settings: EvalSettings, oracle: "type[Oracle] | None", check_path: Callable[[str, str], None]) -> None:
    """Raise SettingError where a judge could not be asked or paid for; `oracle` is the job's."""
    prices = read_prices(settings.price_file)
    for judge in settings.judges:
        kind = judge_kind(judge, settings)
        if kind == ORACLE:
            make_oracle(oracle, settings.style)
        elif kind == "local":
            check_path("judge_model", judge_source(judge))
        elif kind == "claude":
            claude_url()
            if not settings.anthropic_api_key:
                raise SettingError(f"JUDGE_MODEL={judge} needs ANTHROPIC_API_KEY. Put it into the environment or .env.")
            if find_spec("anthropic") is None:
                raise SettingError("the anthropic package is not installed. Install the locked packages (make setup).")
        paid = kind == "claude" or (kind == "server" and not is_loopback(settings.judge_url))
        if paid and settings.max_cost is not None and price_of(judge, prices) is None:
            raise SettingError(
                f"MAX_COST needs the price of {judge}, and we have none. Name a PRICE_FILE such as "
                '{"model": {"in": 1.0, "out": 5.0}}, in dollars for a million tokens.'
            )


def make_oracle(oracle: "type[Oracle] | None", style: str | None) -> "Oracle":
    """Return the job's oracle of this style. Raises SettingError where there is none."""
    if oracle is None or style is None:
        missing = "this job has no oracle" if oracle is None else "STYLE is not set"
        raise SettingError(f"JUDGE_MODEL={ORACLE} cannot be asked: {missing}. Name another judge.")
    return oracle(style)


def judge_source(judge: str) -> str:
    """Return the hub name or folder that a judge is loaded from."""
    return str(MODEL_DIR) if judge == SHIPPED else judge


class PairwiseJudge(Protocol):
    """A judge at work: whatever it is, it reads pairs in both orders."""

    def verdict_pairs(self, pairs: Sequence["Pair"], report_progress: Callable[[int], None]) -> list["VerdictPair"]:
        """Return the verdict on each pair in both orders; `report_progress` takes how many pairs are done."""


class OracleJudge:
    """The job's oracle, which reads the style of any answer exactly."""

    def __init__(self, oracle: "Oracle") -> None:
        self.oracle = oracle

    def verdict_pairs(self, pairs: Sequence["Pair"], report_progress: Callable[[int], None]) -> list["VerdictPair"]:
        """Return the verdict on each pair in both orders."""
        return [
            (self.oracle.verdict(pair.first, pair.second), self.oracle.verdict(pair.second, pair.first))
            for pair in pairs
        ]


class LocalPairwiseJudge:
    """A judge loaded here; the pairs are shared out among the processes. Every process asks, and gets all."""

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

    def verdict_pairs(self, pairs: Sequence["Pair"], report_progress: Callable[[int], None]) -> list["VerdictPair"]:
        """Return the verdict on each pair in both orders."""
        from accelerate.utils import gather_object

        keys = [key_of(self.weights, str(self.model_cache.dtype), vars(pair)) for pair in pairs]
        waiting = [place for place, key in enumerate(keys) if key not in self.store]
        if waiting:
            waiting.sort(key=lambda place: len(pairs[place].first) + len(pairs[place].second))
            batches = [waiting[start : start + self.batch_size] for start in range(0, len(waiting), self.batch_size)]
            new = self._judge(
                pairs, keys, batches[self.state.process_index :: self.state.num_processes], report_progress
            )
            for values in gather_object([new]):
                self.store.merge(values)
        return [tuple(self.store[key]) for key in keys]

    def _judge(self, pairs, keys, batches, report_progress) -> dict[str, list]:
        from sdpo.evaluate.models import tokenizer_of
        from sdpo.users.judge import LocalJudge, verdicts_in_both_orders

        new: dict[str, list] = {}
        if not batches:
            return new
        judge = LocalJudge(self.model_cache.load(self.model), tokenizer_of(self.model), self.batch_size)
        for done, batch in enumerate(batches):
            report_progress(done * self.batch_size * self.state.num_processes)
            verdict_pairs = verdicts_in_both_orders(judge, [pairs[place] for place in batch])
            found = {keys[place]: list(verdict_pair) for place, verdict_pair in zip(batch, verdict_pairs, strict=True)}
            self.store.add(found)
            new |= found
        return new


class ApiPairwiseJudge:
    """A judge behind an API, asked by the main process alone; what it answered is in a file of its own."""

    def __init__(self, judge: str, settings: EvalSettings, folder: Path, spent: float) -> None:
        price = price_of(judge, read_prices(settings.price_file))
        cache = ReplyCache(folder / f"replies-{_file_name(judge)}.jsonl")
        limit = settings.max_cost - spent if settings.max_cost is not None else None
        self.client = Client(
            _backend(judge, settings),
            settings.concurrency,
            settings.judge_timeout,
            cache=cache,
            meter=Meter(price, limit, cache.paid),
        )

    def verdict_pairs(self, pairs: Sequence["Pair"], report_progress: Callable[[int], None]) -> list["VerdictPair"]:
        """Return the verdict on each pair in both orders. Raises ServerError where any did not come."""
        from sdpo.users.judge import ApiJudge, verdicts_in_both_orders

        judge, size = ApiJudge(self.client), 4 * self.client.concurrency
        verdict_pairs: list[VerdictPair] = []
        for start in range(0, len(pairs), size):  # in parts, only so that there is something to say meanwhile
            report_progress(start)
            verdict_pairs += verdicts_in_both_orders(judge, pairs[start : start + size])
        return verdict_pairs


def progress(judge: str, name: str, total: int, seconds: float = 10.0) -> Callable[[int], None]:
    """Return what says every few seconds how many pairs a judge has read."""
    started = last_report = time.monotonic()

    def report_progress(done: int) -> None:
        nonlocal last_report
        now = time.monotonic()
        if now - last_report >= seconds or done == total:
            last_report = now
            print(f"{judge} on {name}: {done} of {total} pairs, {now - started:.0f} s", flush=True)

    return report_progress


def _backend(judge: str, settings: EvalSettings) -> ClaudeBackend | OpenAIBackend:
    if judge_kind(judge, settings) == "claude":
        return ClaudeBackend(judge, settings.anthropic_api_key, model_setting="JUDGE_MODEL")
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
