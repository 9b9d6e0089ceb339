"""The tables of docs/study.md, from the study's results."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sdpo.settings import StudySettings


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
