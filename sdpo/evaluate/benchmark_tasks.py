"""The benchmark tasks of an evaluation: found by their names and loaded, through lm-eval.

lm-eval is imported only where BENCHMARKS is set. Finding names reads task files alone; loading a task may also download
its data set from the hub.
"""

import importlib.util
import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdpo.errors import SettingError, nearest, one_line, pip_install
from sdpo.settings import EvalSettings

OWN_TASKS = Path(__file__).parent / "tasks"
_LOG_PROBABILITIES = ("loglikelihood", "loglikelihood_rolling", "multiple_choice")


@dataclass(frozen=True)
class Benchmark:
    """What one row of results is about: a task, or a group of tasks that has one value.

    `tasks` are lm-eval's task objects by name. `metric` is the one that a group combines, and `by_size` whether larger
    tasks weigh more in it; both are None for a single task.
    """

    name: str
    tasks: Mapping[str, Any]
    metric: str | None = None
    by_size: bool | None = None


def names_of(settings: EvalSettings) -> list[str]:
    """Return the names in BENCHMARKS, which are separated by spaces or commas."""
    return list(dict.fromkeys(shlex.split((settings.benchmarks or "").replace(",", " "))))


def check_tasks(settings: EvalSettings) -> None:
    """Check that lm-eval is installed and knows every name in BENCHMARKS. Raises SettingError."""
    if names := names_of(settings):
        _found(settings, names)


def load_benchmarks(settings: EvalSettings) -> list[Benchmark]:
    """Return the benchmarks that BENCHMARKS names, ready to be run.

    Raises SettingError for an unknown name, for a task that cannot be loaded, for one that runs code without
    BENCHMARK_CODE, and for one that needs log-probabilities of models behind ANSWER_URL.
    """
    manager, found = _found(settings, names_of(settings))
    benchmarks: list[Benchmark] = []
    used: set[str] = set()
    for name in found:
        for benchmark in _load(manager, name):
            tasks = {task: value for task, value in benchmark.tasks.items() if task not in used}
            used |= set(tasks)
            if len(tasks) == len(benchmark.tasks):
                benchmarks.append(benchmark)
            else:  # a group of which some tasks were asked for before: only its other tasks are new
                benchmarks += [Benchmark(task, {task: value}) for task, value in tasks.items()]
    for benchmark in benchmarks:
        for name, task in benchmark.tasks.items():
            _check_task(settings, name, task)
            _set_shots(task, settings.benchmark_shots)
    return benchmarks


def uses_chat_template(settings: EvalSettings, task: Any) -> bool:
    """Return whether the task's items are shown in the model's chat template."""
    if settings.benchmark_chat_template == "task":
        return bool((task.config.metadata or {}).get("chat_template", False))
    return settings.benchmark_chat_template == "on"


def _found(settings: EvalSettings, names: list[str]) -> tuple[Any, list[str]]:
    """Return a manager of lm-eval's that knows all the names, and the names with patterns replaced by theirs."""
    if importlib.util.find_spec("lm_eval") is None:
        raise SettingError(f"BENCHMARKS needs lm-eval, which is not installed: {pip_install('sdpo[benchmarks]')}")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval.tasks import TaskManager

    folders = [str(folder) for folder in (OWN_TASKS, settings.benchmark_tasks) if folder]
    # Reading lm-eval's own task files takes many seconds, and they are not needed for tasks of these folders.
    manager = TaskManager(include_path=folders, include_defaults=False)
    if not all(_is_complete(manager.task_index, name) for name in names):
        manager = TaskManager(include_path=folders)
    found: list[str] = []
    for name in names:
        matches = [name] if name in manager.task_index else manager.match_tasks([name])
        if not matches:
            near = nearest(name, manager.all_tasks)
            where = "" if settings.benchmark_tasks is None else f" or in {settings.benchmark_tasks}"
            raise SettingError(
                f"BENCHMARKS: there is no task, group or tag {name} in lm-eval{where}.{near} "
                "`python -m lm_eval ls tasks` lists all."
            )
        found += matches
    return manager, list(dict.fromkeys(found))


def _is_complete(index: Mapping[str, Any], name: str) -> bool:
    """Return whether the name is in the index with all that a group of this name refers to."""
    entry = index.get(name)
    if entry is None:
        return False
    children = (entry.cfg or {}).get("task") if entry.kind.name == "GROUP" else []
    children = children if isinstance(children, list) else [children]
    return all(isinstance(child, str) and _is_complete(index, child) for child in children)


def _load(manager: Any, name: str) -> list[Benchmark]:
    try:
        loaded = manager.load([name])
    except Exception as error:  # tasks are others' code, and their data sets come from the network
        missing = " Install the package that it needs." if isinstance(error, ImportError) else ""
        raise SettingError(
            f"BENCHMARKS: {name} cannot be loaded: {type(error).__name__}: {one_line(error)}.{missing} A data set of "
            "the hub needs the network once, and for some HF_TOKEN."
        ) from None
    group = loaded.get("groups", {}).get(name)
    if group is not None and group.has_aggregation:
        combined = group.aggregate_metric_list[0]
        return [Benchmark(name, loaded["tasks"], combined.metric, combined.weight_by_size)]
    return [Benchmark(task, {task: value}) for task, value in loaded["tasks"].items()]


def _check_task(settings: EvalSettings, name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False) and not settings.benchmark_code:
        raise SettingError(
            f"BENCHMARKS: {name} runs code that the models write. Set BENCHMARK_CODE=1 to allow it, or leave it out."
        )
    if settings.answer_url and task.OUTPUT_TYPE in _LOG_PROBABILITIES:
        raise SettingError(
            f"BENCHMARKS: {name} compares log-probabilities, which the chat answers of ANSWER_URL do not have. Leave "
            "it out, or evaluate it without ANSWER_URL."
        )


def _set_shots(task: Any, shots: int | None) -> None:
    """Set the number of examples in the prompt by lm-eval's rules: a task that says 0 keeps it."""
    own = task.get_config("num_fewshot")
    if shots is not None and own != 0:
        task.set_config("num_fewshot", shots)
    elif own is None:
        task.set_config("num_fewshot", 0)
