"""Benchmarks: tasks of lm-eval on the baseline and the checkpoints, compared item by item."""

import contextlib
import io
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from sdpo.errors import SdpoError
from sdpo.evaluate.answers import Decoding, ServerAnswers
from sdpo.evaluate.benchmark_changes import TaskScores, all_changes, group_change
from sdpo.evaluate.benchmark_tasks import Benchmark, load_benchmarks, names_of, uses_chat_template
from sdpo.evaluate.evidence import BenchmarkChange
from sdpo.evaluate.models import EvaluatedModel, ModelCache
from sdpo.evaluate.store import Store, key_of
from sdpo.evaluate.win_rates import BASELINE
from sdpo.llm import Backend, ReplyCache
from sdpo.settings import EvalSettings

# Of the standard errors that lm-eval estimates by resampling; those of means need none.
_RESAMPLES = 1000


@dataclass(frozen=True)
class BenchmarkReport:
    """The results of the benchmarks.

    `changes` has one row for each checkpoint and benchmark: its main metric. `scores` is for eval.json: what lm-eval
    says of each model and task, the changes of all metrics, and under `computed` the number of replies that this
    evaluation computed, by model.
    """

    changes: list[BenchmarkChange] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Models:
    """The models to compare by name, the fingerprints of their weights, and how they are reached.

    `backend_of` returns the backend of a model behind ANSWER_URL.
    """

    by_name: Mapping[str, EvaluatedModel]
    weights: Mapping[str, str]
    cache: ModelCache
    backend_of: Callable[[EvaluatedModel], Backend]


def measure(settings: EvalSettings, state: PartialState, folder: Path, models: Models) -> BenchmarkReport:
    """Run the tasks in BENCHMARKS on every model. Collective; only the main process gets the results.

    Raises SettingError if a task cannot be run, and ServerError if a server's replies fail.
    """
    if not names_of(settings):
        return BenchmarkReport()
    from sdpo.evaluate.benchmark_models import LocalReplies

    local = None
    if settings.answer_url is None:
        store = Store(folder, "benchmarks", state.process_index)
        state.wait_for_everyone()  # no process may write before all have read
        local = LocalReplies(store, models.cache, state, settings.eval_batch_size)
    benchmarks = _loaded(settings, state)
    if not state.is_main_process:
        if local:
            local.serve()
        return BenchmarkReport()
    run = _Run(settings, state, folder, models, local)
    scores = {name: run.scores(model, benchmarks) for name, model in models.by_name.items()}
    if local:
        local.finish()
    return _report(benchmarks, scores, run)


def _loaded(settings: EvalSettings, state: PartialState) -> list[Benchmark]:
    """Return the benchmarks; on any process but the main one none, but its error is raised on all."""
    benchmarks: list[Benchmark] = []
    outcome: list[SdpoError | None] = [None]
    if state.is_main_process:
        try:
            benchmarks = load_benchmarks(settings)
        except SdpoError as error:
            outcome = [error]
    broadcast_object_list(outcome)
    if outcome[0]:
        raise outcome[0]
    return benchmarks


class _Run:
    """Runs tasks on models, in the main process."""

    def __init__(self, settings: EvalSettings, state: PartialState, folder: Path, models: Models, local: Any) -> None:
        self.settings, self.state, self.models, self.local = settings, state, models, local
        self.served = ReplyCache(folder / "served-benchmarks.jsonl") if local is None else None
        self.computed: defaultdict[str, int] = defaultdict(int)
        self.records: dict[str, dict[str, dict]] = {}  # model -> task -> what lm-eval says of it

    def scores(self, model: EvaluatedModel, benchmarks: list[Benchmark]) -> dict[str, TaskScores]:
        """Return the model's scores by task."""
        if self.local is None:
            language_model: Any = self._served_model(model)
        else:
            language_model = self.local.model(model, self.models.weights[model.name])
        self.records[model.name] = {}
        scores = {}
        for benchmark in benchmarks:
            for name, task in benchmark.tasks.items():
                scores[name] = self._task_scores(model, language_model, name, task)
                metric, value = next(iter(scores[name].values.items()))
                print(f"{model.name}: {name}, {metric} {value:.4f}", flush=True)
        if self.local:
            self.computed[model.name] = self.local.computed[model.name]
        return scores

    def _task_scores(self, model: EvaluatedModel, language_model: Any, name: str, task: Any) -> TaskScores:
        from lm_eval.api.metrics import mean
        from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
        from lm_eval.evaluator import evaluate

        random.seed(DEFAULT_RANDOM_SEED)
        np.random.seed(DEFAULT_OTHER_SEED)
        torch.manual_seed(DEFAULT_OTHER_SEED)
        task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)  # else each model would get other examples than the last one
        in_template = uses_chat_template(self.settings, task)
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            results: Any = evaluate(
                lm=language_model,
                task_dict={"tasks": {name: task}, "groups": {}},
                limit=self.settings.benchmark_limit,
                bootstrap_iters=_RESAMPLES,
                apply_chat_template=in_template,
                fewshot_as_multiturn=in_template,
                confirm_run_unsafe_code=self.settings.benchmark_code,
            )
        items: defaultdict[str, dict[int, Any]] = defaultdict(dict)
        for sample in results["samples"][name]:
            for metric in sample["metrics"]:
                items[f"{metric},{sample['filter']}"][sample["doc_id"]] = sample[metric]
        values = results["results"][name]
        self.records[model.name][name] = {
            "version": results["versions"][name],
            "shots": results["n-shot"][name],
            "chat_template": in_template,
            "items": results["n-samples"][name]["effective"],
            "config": key_of(str(results["configs"][name])),
            "metrics": {key: value for key, value in values.items() if "," in key},
        }
        combine = {metric: _unless(task.aggregation().get(metric.split(",")[0], mean), mean) for metric in items}
        # lm-eval has None for a metric of which it does not know: of nearly all of them more is better.
        direction = results["higher_is_better"][name]
        better = {metric: direction.get(metric.split(",")[0]) is not False for metric in items}
        return TaskScores({metric: values[metric] for metric in items}, dict(items), combine, better)

    def _served_model(self, model: EvaluatedModel) -> Any:
        from sdpo.evaluate.benchmark_models import ModelOfReplies

        def ask(kind: str, arguments: list[tuple]) -> list[str]:
            assert kind == "generate_until", "other tasks are refused when they are loaded"
            return self._served_answers(model, arguments)

        return ModelOfReplies(ask, lambda messages, _: json.dumps(messages))

    def _served_answers(self, model: EvaluatedModel, arguments: list[tuple]) -> list[str]:
        """Return a server's answers, one to each prompt, cut where the task's generation ends."""
        settings = self.settings
        by_decoding: defaultdict[Decoding, list[int]] = defaultdict(list)
        for number, (_, options) in enumerate(arguments):
            by_decoding[_decoding(options, settings.seed)].append(number)
        answers = [""] * len(arguments)
        for decoding, numbers in by_decoding.items():
            assert self.served is not None
            source = ServerAnswers(
                self.served, self.state, decoding, self.models.backend_of, settings.concurrency, settings.judge_timeout
            )
            contexts = [arguments[number][0] for number in numbers]
            prompts, samples = list(map(_messages, contexts)), _occurrences(contexts)
            replies = source.of(model, self.models.weights[model.name], prompts, samples)
            for number, answer in zip(numbers, replies, strict=True):
                answers[number] = _cut(answer.text, arguments[number][1].get("until"))
            self.computed[model.name] += source.generated[model.name]
        return answers


def _unless(function: Callable, other: Callable) -> Callable | None:
    return None if function is other else function


def _occurrences(contexts: list[str]) -> list[int]:
    """Return how often each was there before it: the requests of an item with repeats are equal, and samples each."""
    seen: Counter[str] = Counter()
    numbers = []
    for context in contexts:
        numbers.append(seen[context])
        seen[context] += 1
    return numbers


def _messages(context: str) -> list:
    """Return the messages of a request: those of a chat, or the text as one message of the user."""
    try:
        messages = json.loads(context)
    except ValueError:
        messages = None
    if isinstance(messages, list) and all(isinstance(one, dict) and "role" in one for one in messages):
        return messages
    return [{"role": "user", "content": context}]


def _decoding(options: Mapping[str, Any], seed: int) -> Decoding:
    most = next((options[name] for name in ("max_gen_toks", "max_tokens", "max_new_tokens") if name in options), 256)
    temperature = float(options.get("temperature") or 0) if options.get("do_sample", True) else 0.0
    return Decoding(int(most), temperature, seed)


def _cut(text: str, until: Any) -> str:
    for stop in [until] if isinstance(until, str) else until or []:
        text = text.split(stop)[0] if stop else text
    return text


def _report(benchmarks: list[Benchmark], scores: Mapping[str, Mapping[str, TaskScores]], run: _Run) -> BenchmarkReport:
    from lm_eval import __version__

    steps = sorted((int(name.rsplit("-", 1)[1]), name) for name in scores if name != BASELINE)
    rows: list[BenchmarkChange] = []
    every: list[BenchmarkChange] = []
    for step, name in steps:
        for benchmark in benchmarks:
            changes = list(all_changes(step, list(benchmark.tasks), scores[BASELINE], scores[name]))
            every += changes
            rows += _main_rows(benchmark, changes)
    report = {
        "lm_eval": __version__,
        "models": run.records,
        "changes": [asdict(one) for one in every],
        "computed": {name: run.computed[name] for name in scores},
    }
    return BenchmarkReport(rows, report)


def _main_rows(benchmark: Benchmark, changes: list[BenchmarkChange]) -> list[BenchmarkChange]:
    """Return the rows of a benchmark: a group's value if it has one, else each task's main metric."""
    first = {one.task: one for one in reversed(changes)}
    mains = [first[task] for task in benchmark.tasks if task in first]
    if benchmark.metric is None or len(benchmark.tasks) == 1:
        return mains
    for metric in dict.fromkeys(one.metric for one in changes):
        own = [one for one in changes if one.metric == metric]
        if metric.split(",")[0] == benchmark.metric and len(own) == len(benchmark.tasks):
            return [group_change(benchmark.name, own, bool(benchmark.by_size))]
    return mains
