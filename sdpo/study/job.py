"""The study: every teacher with every objective, and the guard, on the tiny world; tables in docs/study.md.

Each finished run is a line of STUDY_DIR/study.jsonl, so a study that was stopped resumes where it stopped, and changing
a table repeats no run. The guard's measures of each run are in study-guard.jsonl beside it, so changing the guard
repeats none either.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

from sdpo import progress
from sdpo.errors import SettingError
from sdpo.runtime.commands import command
from sdpo.runtime.ending import say
from sdpo.runtime.run_directory import RunDirectory
from sdpo.study.tables import report

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import StudySettings
    from sdpo.study.run import Spec

RESULTS = "study.jsonl"
GUARD_CURVES = "study-guard.jsonl"
PARTS = ("table", "noise", "guard", "flip", "sequence", "long")
TEACHERS = ("live", "frozen", "ema", "gated")
LENGTHS = ("short", "long")  # styles that the guard might mistake for a collapse of the policy


def check(settings: "StudySettings", job: "Job") -> None:
    """Raise SettingError for an unknown part or teacher, or for a pair that is not a teacher and an objective."""
    for name, known in (("parts", PARTS), ("teachers", TEACHERS)):
        for item in _items(getattr(settings, name)):
            if item not in known:
                raise SettingError(f"{name.upper()}={item} is unknown. Choose from {', '.join(known)}.")
    for pair in (*_items(settings.finalists), settings.recommended):
        teacher, _, objective = pair.partition(" ")
        if teacher not in TEACHERS or not objective:
            raise SettingError(f"{pair!r} is not a teacher and an objective, such as 'frozen token'.")


def run(settings: "StudySettings", job: "Job") -> int:
    """Do the runs that have no results yet, write the tables of all, and return exit code 0."""
    folder = settings.study_dir
    folder.mkdir(parents=True, exist_ok=True)
    directory = RunDirectory(folder)
    runs = selected_runs(settings)
    done = _results_with_current_guard(directory)
    missing = [spec for spec in runs if spec.key not in done]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them done; results in {folder / RESULTS}", flush=True)
    results = progress.each(_results(missing, settings.parallel), "study", "runs", len(missing))
    for number, (spec, result) in enumerate(results, start=1):
        directory.append(GUARD_CURVES, [{"key": spec.key, "guard": result.pop("guard")}])
        done[spec.key] = result = {"key": spec.key, **result}
        directory.append(RESULTS, [result])
        last = result["curve"][-1]
        print(
            f"[{number}/{len(missing)}] {spec.teacher} {spec.objective} {'>'.join(spec.styles)} seed {spec.seed}: "
            f"adherence {last['adherence']:.2f}, validity {last['validity']:.2f}, "
            f"collapsed {result['fell']}, guard {result['stopped']}, {result['seconds']} s",
            flush=True,
        )
    table = settings.study_table
    RunDirectory(table.parent).write_text(table.name, report(settings, [done[spec.key] for spec in runs]))
    say(f"All {len(runs)} runs have results.", {"tables": table}, command("study-real"), "the same on real models")
    return 0


def _results_with_current_guard(directory: RunDirectory) -> dict[str, dict]:
    """Return the results of the finished runs by key.

    If the guard's measures of a run are stored, its `warned` and `stopped` are those of the guard as it is now; changed
    results are written back.
    """
    from sdpo.study.run import guard_result

    results = directory.read_rows(RESULTS)
    measures = {row["key"]: row["guard"] for row in directory.read_rows(GUARD_CURVES)}
    updated = [
        result | guard_result(result["spec"]["teacher"], measures[result["key"]])
        if result["key"] in measures
        else result
        for result in results
    ]
    if updated != results:
        directory.write_rows(RESULTS, updated)
    return {result["key"]: result for result in updated}


def selected_runs(settings: "StudySettings") -> "list[Spec]":
    """Return the runs that the settings select, each once."""
    from sdpo.study.run import Spec

    def specs(pairs: Iterable[str], seeds: int, **overrides: Any) -> list[Spec]:
        fields = {"interactions": settings.interactions, "answers": settings.answers} | overrides
        fields.setdefault("points", tuple(point for point in (160, 320, 480) if point < fields["interactions"]))
        named = [pair.partition(" ") for pair in pairs]
        return [Spec(teacher, objective, seed, **fields) for teacher, _, objective in named for seed in range(seeds)]

    best, finalists = [settings.recommended], _items(settings.finalists)
    pairs = [f"{teacher} {kind}" for teacher in _items(settings.teachers) for kind in _items(settings.objectives)]
    many, few = settings.finalist_seeds, settings.seeds
    frequent, flip = tuple(range(32, 960, 32)), ("no_emojis", "emojis")
    parts: dict[str, Callable[[], list[Spec]]] = {
        "table": lambda: [*specs(pairs, few), *specs(finalists, many)],
        "noise": lambda: specs(dict.fromkeys([*finalists, *best]), few, related=False),
        "guard": lambda: [
            *specs(
                ["live token"],
                many,
                interactions=settings.collapse_interactions,
                points=(),
                until_fallen=True,
            ),
            *specs(best, many),
            *(spec for style in LENGTHS for spec in specs(best, many, styles=(style,), points=())),
        ],
        # The opposite style as soon as the first is learned.
        "flip": lambda: specs(best, few, styles=flip, interactions=960, points=frequent, until_learned=True),
        "sequence": lambda: specs(best, few, styles=("no_emojis", "short", "casual"), interactions=480),
        "long": lambda: specs(best, few, interactions=settings.long_interactions, points=(480, 1600, 4000, 8000)),
    }
    return list(dict.fromkeys(spec for part in _items(settings.parts) for spec in parts[part]()))


def _results(specs: "list[Spec]", parallel: int) -> "Iterable[tuple[Spec, dict]]":
    from sdpo.models.pretrained import silence_libraries
    from sdpo.study.run import run_one

    if parallel == 1:
        silence_libraries()
        yield from ((spec, run_one(spec)) for spec in specs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(parallel, mp_context=context, initializer=_start_worker) as pool:
        running = {pool.submit(run_one, spec): spec for spec in specs}
        yield from ((running[future], future.result()) for future in as_completed(running))


def _start_worker() -> None:
    """Prepare a worker process: one thread, no library warnings, and an end together with the study."""
    import torch

    from sdpo.models.pretrained import silence_libraries

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    silence_libraries()


def _end_with_parent() -> None:
    """Wait until the parent process has ended, even by SIGKILL, and end this worker."""
    parent = multiprocessing.parent_process()
    if parent is None:
        raise RuntimeError("this process is not a worker of the study")
    parent.join()
    os._exit(1)


def _items(text: str) -> list[str]:
    """Return the items of a comma-separated list."""
    return [item.strip() for item in text.split(",") if item.strip()]
