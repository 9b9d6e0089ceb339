"""The study: every teacher with every objective, and the guard, on the tiny world; tables in docs/study.md.

Each finished run is a line of STUDY_DIR/study.jsonl, so a study that was stopped goes on where it was, and a
changed table costs no run again.
"""

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING

from sdpo.errors import SettingError
from sdpo.run import RunDirectory

if TYPE_CHECKING:
    from sdpo.launch import Job
    from sdpo.settings import StudySettings
    from sdpo.tiny.study import Spec

RESULTS = "study.jsonl"
PARTS = ("table", "noise", "guard", "flip", "sequence", "long")
TEACHERS = ("live", "frozen", "ema", "gated")
HEALTHY = ("no_emojis", "short", "long")
ENOUGH = 0.95
USUAL_RATE = 1.5e-4


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
    done = {result["key"]: result for result in place.read_rows(RESULTS)}
    missing = [spec for spec in runs if spec.key not in done]
    print(f"{len(runs)} runs, {len(runs) - len(missing)} of them done; results in {folder / RESULTS}", flush=True)
    for number, (spec, result) in enumerate(_results(missing, settings.parallel), start=1):
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


def wanted_runs(settings: "StudySettings") -> "list[Spec]":
    """Return the runs that the settings ask for, each once."""
    from sdpo.tiny.study import Spec

    def specs(pairs: Iterable[str], seeds: int, **more) -> list[Spec]:
        more = {"interactions": settings.interactions, "answers": settings.answers} | more
        more.setdefault("points", tuple(at for at in (160, 320, 480) if at < more["interactions"]))
        return [Spec(*pair.split(" ", 1), seed, **more) for pair in pairs for seed in range(seeds)]

    best, finalists = [settings.recommended], _items(settings.finalists)
    pairs = [f"{teacher} {kind}" for teacher in _items(settings.teachers) for kind in _items(settings.objectives)]
    many, few = settings.finalist_seeds, settings.seeds
    frequent = tuple(range(80, 960, 80))
    parts: dict[str, Callable[[], list[Spec]]] = {
        "table": lambda: [*specs(pairs, few), *specs(finalists, many)],
        "noise": lambda: specs(["live token", *best], few, related=False),
        "guard": lambda: [
            *specs(["live token"], many),
            *specs(["live token"], many, learning_rate=settings.collapse_lr),
            *(spec for style in HEALTHY for spec in specs(best, many, styles=(style,))),
        ],
        "flip": lambda: specs(best, few, styles=("no_emojis", "emojis"), interactions=960, points=frequent),
        "sequence": lambda: specs(best, few, styles=("no_emojis", "short", "casual"), interactions=480),
        "long": lambda: specs(best, few, interactions=settings.long_interactions, points=(480, 1600, 4000, 8000)),
    }
    return list(dict.fromkeys(spec for part in _items(settings.parts) for spec in parts[part]()))


def _results(specs: "list[Spec]", parallel: int) -> "Iterable[tuple[Spec, dict]]":
    from sdpo.pretrained import hush
    from sdpo.tiny.study import run_one

    if parallel == 1:
        hush()
        yield from ((spec, run_one(spec)) for spec in specs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(parallel, mp_context=context, initializer=_one_thread) as pool:
        running = {pool.submit(run_one, spec): spec for spec in specs}
        yield from ((running[future], future.result()) for future in as_completed(running))


def _one_thread() -> None:
    import torch

    from sdpo.pretrained import hush

    torch.set_num_threads(1)
    hush()


# The tables


def report(settings: "StudySettings", results: list[dict]) -> str:
    """Return study.md: the tables of the results that are there, and what each column means."""
    lines = [
        "# The study on the tiny world",
        "",
        f"Made by `make study`. Users by rule, batches of 16, AdamW at {USUAL_RATE:g} where nothing else is said. "
        f"Adherence and validity are means over seeds of {settings.answers} sampled answers; a seed has fallen where "
        "the validity of five steps' answers went under 0.9 and stayed there. The guard watched every run and stopped "
        "none: counted is where it would have.",
        "",
    ]
    plain = [result for result in results if result["spec"]["related"] and len(result["spec"]["styles"]) == 1]
    taught = [result for result in plain if result["spec"]["interactions"] == settings.interactions]
    usual = [result for result in taught if result["spec"]["learning_rate"] == USUAL_RATE]
    lines += _teachers_table(
        [result for result in usual if "no_emojis" in result["spec"]["styles"]], settings.interactions
    )
    lines += _guard_table(taught)
    lines += _noise_table([result for result in results if not result["spec"]["related"]])
    lines += _phases([result for result in results if len(result["spec"]["styles"]) > 1])
    lines += _long([result for result in plain if result["spec"]["interactions"] > settings.interactions])
    return "\n".join(lines) + "\n"


def _teachers_table(results: list[dict], end: int) -> list[str]:
    points = (160, 320, 480, end)
    rows = []
    for (teacher, objective), group in _grouped(results, "teacher", "objective").items():
        adherence = " | ".join(_mean(_at(result, point, "adherence") for result in group) for point in points)
        validity = " | ".join(_mean(_at(result, point, "validity") for result in group) for point in (480, end))
        fallen = sum(result["fell"] is not None for result in group)
        moved = max(_moved(result) for result in group)
        rows.append(f"| {teacher} | {objective} | {adherence} | {validity} | {moved:.2f} | {fallen}/{len(group)} |")
    if not rows:
        return []
    head = " | ".join(f"adherence {point}" for point in points)
    return [
        "## Teachers and objectives, user without emojis", "",
        f"| teacher | objective | {head} | validity 480 | validity {end} | other axes moved by | fallen |",
        "|" + "---|" * 10, *rows, "",
    ]  # fmt: skip


def _guard_table(results: list[dict]) -> list[str]:
    rows = []
    groups = _grouped(results, "teacher", "objective", "styles", "learning_rate")
    for (teacher, objective, styles, rate), group in groups.items():
        fell = [result for result in group if result["fell"] is not None]
        caught = sum(result["stopped"] is not None and result["stopped"] <= result["fell"] for result in fell)
        healthy = [result for result in group if result["fell"] is None]
        wrong = sum(result["stopped"] is not None for result in healthy)
        warned = sum(result["warned"] is not None for result in healthy)
        rows.append(
            f"| {teacher} | {objective} | {styles[0]} | {rate:g} | {caught}/{len(fell)} | {wrong}/{len(healthy)} | "
            f"{warned}/{len(healthy)} |"
        )
    if not rows:
        return []
    return [
        "## The guard", "",
        "| teacher | objective | style | learning rate | stopped before the fall | healthy ones stopped | and warned |",
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
    if not results:
        return []
    lines = [
        "## One taste after another",
        "",
        "| teacher | objective | tastes | seed | learned after | kept at the end |",
    ]
    lines.append("|" + "---|" * 6)
    for result in results:
        spec = result["spec"]
        learned = []
        for number, style in enumerate(spec["styles"]):
            begin = number * spec["interactions"]
            reached = (
                point["interactions"] - begin
                for point in result["curve"]
                if point["interactions"] > begin and point["style"] == style and point["adherence"] >= ENOUGH
            )
            learned.append(str(next(reached, "–")))
        kept = ", ".join(f"{style} {share:.2f}" for style, share in result["curve"][-1]["kept"].items())
        lines.append(
            f"| {spec['teacher']} | {spec['objective']} | {', '.join(spec['styles'])} | {spec['seed']} | "
            f"{', '.join(learned)} | {kept} |"
        )
    return [*lines, ""]


def _long(results: list[dict]) -> list[str]:
    if not results:
        return []
    lines = ["## Long runs", "", "| teacher | objective | seed | interactions | adherence | validity | fell |"]
    lines.append("|" + "---|" * 7)
    for result in results:
        spec, last = result["spec"], result["curve"][-1]
        lines.append(
            f"| {spec['teacher']} | {spec['objective']} | {spec['seed']} | {last['interactions']} | "
            f"{last['adherence']:.3f} | {last['validity']:.3f} | {result['fell'] or 'no'} |"
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
