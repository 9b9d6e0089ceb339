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


# The tables


def report(settings: "StudySettings", results: list[dict]) -> str:
    """Return the text of study.md: an explanation of the columns and the tables of the results."""
    from sdpo.study.run import BATCH, BETA1, COLLAPSED, FOCUS, LEARNED, RATE

    lines = [
        "# The study on the tiny world",
        "",
        f"Written by `make study`. Rule-based users, batches of {BATCH}, AdamW with learning rate {RATE:g} and "
        f"ADAM_BETA1={BETA1:g}; +null means NULL_CONTRAST, +focus means FOCUS={FOCUS:g}. "
        f"Adherence and validity are means over seeds of {settings.answers} sampled answers; the lowest of the seeds "
        "are adherence at 480 and at the end, and validity at the end. A seed has collapsed if the mean validity of "
        f"five steps' answers fell below {COLLAPSED} and stayed there. The guard observed every run and stopped none: "
        "the tables show which it would have stopped. A style is learned when two consecutive readings are at least "
        f"{LEARNED}.",
        "",
    ]
    one_style = [result for result in results if result["spec"]["related"] and len(result["spec"]["styles"]) == 1]
    full_length = [result for result in one_style if not result["spec"]["until_fallen"]]
    usual = [result for result in full_length if result["spec"]["interactions"] == settings.interactions]
    lines += _teachers_table(
        [result for result in usual if "no_emojis" in result["spec"]["styles"]], settings.interactions
    )
    lines += _guard_table(one_style)
    lines += _noise_table([result for result in results if not result["spec"]["related"]])
    lines += _sequence_table([result for result in results if len(result["spec"]["styles"]) > 1])
    lines += _long_table([result for result in full_length if result["spec"]["interactions"] > settings.interactions])
    return "\n".join(lines) + "\n"


def _teachers_table(results: list[dict], end: int) -> list[str]:
    points = (160, 320, 480, end)
    rows = []
    for (teacher, objective), group in _grouped(results, "teacher", "objective").items():
        adherence = " | ".join(_mean(_at(result, point, "adherence") for result in group) for point in points)
        validity = " | ".join(_mean(_at(result, point, "validity") for result in group) for point in (480, end))
        collapsed = sum(result["fell"] is not None for result in group)
        moved = max(_largest_shift(result) for result in group)
        lowest = " / ".join(
            _lowest(_at(result, point, name) for result in group)
            for point, name in ((480, "adherence"), (end, "adherence"), (end, "validity"))
        )
        rows.append(
            f"| {teacher} | {objective} | {adherence} | {validity} | {lowest} | {moved:.2f} | "
            f"{collapsed}/{len(group)} |"
        )
    if not rows:
        return []
    head = " | ".join(f"adherence {point}" for point in points)
    return [
        "## Teachers and objectives, style no_emojis", "",
        f"| teacher | objective | {head} | validity 480 | validity {end} | lowest of the seeds | other axes moved by | "
        "collapsed |",
        "|" + "---|" * 11, *rows, "",
    ]  # fmt: skip


def _guard_table(results: list[dict]) -> list[str]:
    rows = []
    groups = _grouped(results, "teacher", "objective", "styles", "interactions")
    for (teacher, objective, styles, interactions), group in groups.items():
        collapsed = [result for result in group if result["fell"] is not None]
        caught = sum(result["stopped"] is not None and result["stopped"] <= result["fell"] for result in collapsed)
        healthy = [result for result in group if result["fell"] is None]
        false_alarms = sum(result["stopped"] is not None for result in healthy)
        warned = sum(result["warned"] is not None for result in healthy)
        rows.append(
            f"| {teacher} | {objective} | {styles[0]} | {interactions} | {caught}/{len(collapsed)} | "
            f"{false_alarms}/{len(healthy)} | {warned}/{len(healthy)} |"
        )
    if not rows:
        return []
    return [
        "## The guard", "",
        "| teacher | objective | style | interactions | stopped before the collapse | others stopped | others warned |",
        "|" + "---|" * 7, *rows, "",
    ]  # fmt: skip


def _noise_table(results: list[dict]) -> list[str]:
    rows = []
    for (teacher, objective), group in _grouped(results, "teacher", "objective").items():
        axes = group[0]["curve"][-1]["axes"]
        shares = " | ".join(_mean(result["curve"][-1]["axes"][axis] for result in group) for axis in axes)
        rows.append(f"| {teacher} | {objective} | {shares} | {_mean(r['curve'][-1]['validity'] for r in group)} |")
    if not rows:
        return []
    head = " | ".join(f"share {axis}" for axis in axes)
    return [
        "## Unrelated follow-ups, at the end of the run", "",
        f"| teacher | objective | {head} | validity |", "|" + "---|" * (len(axes) + 3), *rows, "",
    ]  # fmt: skip


def _sequence_table(results: list[dict]) -> list[str]:
    from sdpo.study.run import learned

    if not results:
        return []
    lines = [
        "## Styles one after another",
        "",
        "| teacher | objective | styles | seed | learned after | adherence at the end | stopped by the guard |",
    ]
    lines.append("|" + "---|" * 7)
    for result in results:
        spec = result["spec"]
        after = [learned(result["curve"], phase) or "–" for phase in range(len(spec["styles"]))]
        kept = ", ".join(f"{style} {share:.2f}" for style, share in result["curve"][-1]["kept"].items())
        lines.append(
            f"| {spec['teacher']} | {spec['objective']} | {', '.join(spec['styles'])} | {spec['seed']} | "
            f"{', '.join(map(str, after))} | {kept} | {result['stopped'] or 'no'} |"
        )
    return [*lines, ""]


def _long_table(results: list[dict]) -> list[str]:
    if not results:
        return []
    lines = [
        "## Long runs",
        "",
        "| teacher | objective | seed | interactions | adherence | validity | stopped | collapsed |",
    ]
    lines.append("|" + "---|" * 8)
    for result in results:
        spec, last = result["spec"], result["curve"][-1]
        lines.append(
            f"| {spec['teacher']} | {spec['objective']} | {spec['seed']} | {last['interactions']} | "
            f"{last['adherence']:.3f} | {last['validity']:.3f} | {result['stopped'] or 'no'} | "
            f"{result['fell'] or 'no'} |"
        )
    return [*lines, ""]


def _grouped(results: list[dict], *names: str) -> dict[tuple, list[dict]]:
    """Return the results by the values of these fields of their specs."""
    groups: dict[tuple, list[dict]] = {}
    for result in results:
        key = tuple(tuple(value) if isinstance(value := result["spec"][name], list) else value for name in names)
        groups.setdefault(key, []).append(result)
    return groups


def _at(result: dict, interactions: int, name: str) -> float | None:
    """Return a value of the reading after `interactions` interactions, None if there was no reading then."""
    return next((point[name] for point in result["curve"] if point["interactions"] == interactions), None)


def _largest_shift(result: dict) -> float:
    """Return the largest change in the share of an axis on which the user has no preference."""
    from sdpo.tiny import oracle

    start, end = result["curve"][0]["axes"], result["curve"][-1]["axes"]
    wanted = oracle.wants_of(result["spec"]["styles"][0])
    return max(abs(end[axis] - start[axis]) for axis in start if axis not in wanted)


def _mean(values: Iterable[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    return f"{sum(numbers) / len(numbers):.3f}" if numbers else "–"


def _lowest(values: Iterable[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    return f"{min(numbers):.2f}" if numbers else "–"


def _items(text: str) -> list[str]:
    """Return the items of a comma-separated list."""
    return [item.strip() for item in text.split(",") if item.strip()]
