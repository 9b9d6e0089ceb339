"""The study: every teacher with every objective, and the guard, on the tiny world; tables in docs/study.md.

Each finished run is a line of STUDY_DIR/study.jsonl, so a study that was stopped goes on where it was, and a
changed table costs no run again. What the guard saw of each is in study-guard.jsonl beside it, so a changed guard does
not either.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING

from sdpo.errors import SettingError
from sdpo.runtime.run_directory import RunDirectory

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import StudySettings
    from sdpo.study.run import Spec

RESULTS = "study.jsonl"
GUARD_CURVES = "study-guard.jsonl"
PARTS = ("table", "noise", "guard", "flip", "sequence", "long")
TEACHERS = ("live", "frozen", "ema", "gated")
LENGTHS = ("short", "long")  # tastes that a guard might take for a policy that comes apart


def check(settings: "StudySettings", job: "Job") -> None:
    """Raise SettingError for a part, a teacher or an objective that there is not."""
    for name, known in (("parts", PARTS), ("teachers", TEACHERS)):
        for item in _items(getattr(settings, name)):
            if item not in known:
                raise SettingError(f"{name.upper()}={item} is not known. There are {', '.join(known)}.")
    for pair in (*_items(settings.finalists), settings.recommended):
        teacher, _, objective = pair.partition(" ")
        if teacher not in TEACHERS or not objective:
            raise SettingError(f"{pair!r} is not a teacher and an objective, such as 'frozen token'.")


def run(settings: "StudySettings", job: "Job") -> int:
    """Do the runs that are missing, and write the tables of those that are there."""
    folder = settings.study_dir
    folder.mkdir(parents=True, exist_ok=True)
    place = RunDirectory(folder)
    runs = wanted_runs(settings)
    done = _judged_again(place)
    missing = [spec for spec in runs if spec.key not in done]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them done; results in {folder / RESULTS}", flush=True)
    for number, (spec, result) in enumerate(_results(missing, settings.parallel), start=1):
        place.append(GUARD_CURVES, [{"key": spec.key, "guard": result.pop("guard")}])
        done[spec.key] = result = {"key": spec.key, **result}
        place.append(RESULTS, [result])
        last = result["curve"][-1]
        print(
            f"[{number}/{len(missing)}] {spec.teacher} {spec.objective} {'>'.join(spec.styles)} seed {spec.seed}: "
            f"adherence {last['adherence']:.2f}, validity {last['validity']:.2f}, fell {result['fell']}, "
            f"guard {result['stopped']}, {result['seconds']} s",
            flush=True,
        )
    table = settings.study_table
    RunDirectory(table.parent).write_text(table.name, report(settings, [done[spec.key] for spec in runs]))
    print(f"tables: {table}", flush=True)
    return 0


def _judged_again(place: RunDirectory) -> dict[str, dict]:
    """Return the finished runs by key, with the word of the guard as it is now on those whose curves are there."""
    from sdpo.study.run import judged

    results = place.read_rows(RESULTS)
    curves = {row["key"]: row["guard"] for row in place.read_rows(GUARD_CURVES)}
    again = [
        result | judged(result["spec"]["teacher"], curves[result["key"]]) if result["key"] in curves else result
        for result in results
    ]
    if again != results:
        place.write_rows(RESULTS, again)
    return {result["key"]: result for result in again}


def wanted_runs(settings: "StudySettings") -> "list[Spec]":
    """Return the runs that the settings ask for, each once."""
    from sdpo.study.run import Spec

    def specs(pairs: Iterable[str], seeds: int, **more) -> list[Spec]:
        more = {"interactions": settings.interactions, "answers": settings.answers} | more
        more.setdefault("points", tuple(at for at in (160, 320, 480) if at < more["interactions"]))
        return [Spec(*pair.split(" ", 1), seed, **more) for pair in pairs for seed in range(seeds)]

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
        # The opposite taste as soon as the first is learned.
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
    with ProcessPoolExecutor(parallel, mp_context=context, initializer=_one_thread) as pool:
        running = {pool.submit(run_one, spec): spec for spec in specs}
        yield from ((running[future], future.result()) for future in as_completed(running))


def _one_thread() -> None:
    import torch

    from sdpo.models.pretrained import silence_libraries

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    silence_libraries()


def _end_with_parent() -> None:
    """End this process when the one that it works for is gone, however that ended."""
    multiprocessing.parent_process().join()
    os._exit(1)


# The tables


def report(settings: "StudySettings", results: list[dict]) -> str:
    """Return study.md: the tables of the results that are there, and what each column means."""
    from sdpo.study.run import BATCH, BETA1, COLLAPSED, FOCUS, LEARNED, RATE

    lines = [
        "# The study on the tiny world",
        "",
        f"Made by `make study`. Users by rule, batches of {BATCH}, AdamW at {RATE:g} with "
        f"ADAM_BETA1={BETA1:g}; +null is with NULL_CONTRAST, +focus with FOCUS={FOCUS:g}. "
        f"Adherence and validity are means over seeds of {settings.answers} sampled answers, the lowest of the seeds "
        "are adherence at 480 and at the end and validity at the end; a seed has fallen where "
        f"the validity of five steps' answers went under {COLLAPSED} and stayed there. The guard watched every run and "
        "stopped none: counted is where it would have. A taste is learned where two readings in a row are at "
        f"{LEARNED} or more.",
        "",
    ]
    plain = [result for result in results if result["spec"]["related"] and len(result["spec"]["styles"]) == 1]
    whole = [result for result in plain if not result["spec"]["until_fallen"]]
    taught = [result for result in whole if result["spec"]["interactions"] == settings.interactions]
    lines += _teachers_table(
        [result for result in taught if "no_emojis" in result["spec"]["styles"]], settings.interactions
    )
    lines += _guard_table(plain)
    lines += _noise_table([result for result in results if not result["spec"]["related"]])
    lines += _phases([result for result in results if len(result["spec"]["styles"]) > 1])
    lines += _long([result for result in whole if result["spec"]["interactions"] > settings.interactions])
    return "\n".join(lines) + "\n"


def _teachers_table(results: list[dict], end: int) -> list[str]:
    points = (160, 320, 480, end)
    rows = []
    for (teacher, objective), group in _grouped(results, "teacher", "objective").items():
        adherence = " | ".join(_mean(_at(result, point, "adherence") for result in group) for point in points)
        validity = " | ".join(_mean(_at(result, point, "validity") for result in group) for point in (480, end))
        fallen = sum(result["fell"] is not None for result in group)
        moved = max(_moved(result) for result in group)
        lowest = " / ".join(
            f"{min(_at(result, point, name) for result in group):.2f}"
            for point, name in ((480, "adherence"), (end, "adherence"), (end, "validity"))
        )
        rows.append(
            f"| {teacher} | {objective} | {adherence} | {validity} | {lowest} | {moved:.2f} | {fallen}/{len(group)} |"
        )
    if not rows:
        return []
    head = " | ".join(f"adherence {point}" for point in points)
    return [
        "## Teachers and objectives, user without emojis", "",
        f"| teacher | objective | {head} | validity 480 | validity {end} | lowest of the seeds | other axes moved by | "
        "fallen |",
        "|" + "---|" * 11, *rows, "",
    ]  # fmt: skip


def _guard_table(results: list[dict]) -> list[str]:
    rows = []
    groups = _grouped(results, "teacher", "objective", "styles", "interactions")
    for (teacher, objective, styles, interactions), group in groups.items():
        fell = [result for result in group if result["fell"] is not None]
        caught = sum(result["stopped"] is not None and result["stopped"] <= result["fell"] for result in fell)
        healthy = [result for result in group if result["fell"] is None]
        wrong = sum(result["stopped"] is not None for result in healthy)
        warned = sum(result["warned"] is not None for result in healthy)
        rows.append(
            f"| {teacher} | {objective} | {styles[0]} | {interactions} | {caught}/{len(fell)} | "
            f"{wrong}/{len(healthy)} | {warned}/{len(healthy)} |"
        )
    if not rows:
        return []
    return [
        "## The guard", "",
        "| teacher | objective | style | interactions | stopped before the fall | others stopped | and warned |",
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
        "## Follow-ups that have nothing to do with the answer, at the end", "",
        f"| teacher | objective | {head} | validity |", "|" + "---|" * (len(axes) + 3), *rows, "",
    ]  # fmt: skip


def _phases(results: list[dict]) -> list[str]:
    from sdpo.study.run import learned

    if not results:
        return []
    lines = [
        "## One taste after another",
        "",
        "| teacher | objective | tastes | seed | learned after | kept at the end | stopped by the guard |",
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


def _long(results: list[dict]) -> list[str]:
    if not results:
        return []
    lines = [
        "## Long runs",
        "",
        "| teacher | objective | seed | interactions | adherence | validity | stopped | fell |",
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
    groups: dict[tuple, list[dict]] = {}
    for result in results:
        key = tuple(tuple(value) if isinstance(value := result["spec"][name], list) else value for name in names)
        groups.setdefault(key, []).append(result)
    return groups


def _at(result: dict, interactions: int, name: str) -> float | None:
    return next((point[name] for point in result["curve"] if point["interactions"] == interactions), None)


def _moved(result: dict) -> float:
    """Return how far the share of any axis that the user said nothing of has moved."""
    from sdpo.tiny import oracle

    start, end = result["curve"][0]["axes"], result["curve"][-1]["axes"]
    wanted = oracle.wants_of(result["spec"]["styles"][0])
    return max(abs(end[axis] - start[axis]) for axis in start if axis not in wanted)


def _mean(values: Iterable[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    return f"{sum(numbers) / len(numbers):.3f}" if numbers else "–"


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]
