"""The sections of a training run: how it ended, its results, its guard, its samples, its cost and time."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from sdpo.report.curves import Metrics
from sdpo.report.folder import Folder, listing, mapping, number
from sdpo.report.html import bullets, duration, facts, folded, joined, shown, table
from sdpo.report.samples import answers
from sdpo.train.results import LABELS

_MOST_FOUND = 50
_LEVELS = {1: "warned", 2: "stopped"}
_PARTS = {
    "generation": "answers",
    "user": "waiting for the user",
    "scoring": "scoring in hindsight",
    "training": "training",
}


def state(folder: Folder, metrics: Metrics) -> tuple[str, str]:
    """Return how the run stands in a word or two, and in a sentence."""
    summary = folder.json("summary.json")
    step = shown(metrics.last.get("step")) if metrics.rows else "none"
    if stopped := mapping(summary.get("stopped_by_guard")):
        best = summary.get("best_checkpoint")
        advice = f"{best} is the best checkpoint" if best else "none of its checkpoints is good to use"
        reasons = "; ".join(map(str, listing(stopped.get("reasons"))))
        return "stopped by the guard", f"The guard stopped it after step {stopped.get('step')}: {reasons}; {advice}."
    if summary.get("finished"):
        return "finished", f"It finished after {shown(summary.get('steps', metrics.last.get('step')))} steps."
    written = _last_written(folder)
    return "unfinished", (
        f"It has not finished: its last recorded step is {step}{written}. If it no longer runs, the same command with "
        f"RUN_ID or OUTPUT_DIR of this folder goes on from its last complete checkpoint ({_last_checkpoint(folder)})."
    )


def _last_written(folder: Folder) -> str:
    try:
        at = datetime.fromtimestamp((folder.path / "metrics.jsonl").stat().st_mtime, UTC)
    except OSError:
        return ""
    return f", written {at:%Y-%m-%d %H:%M} UTC"


def _last_checkpoint(folder: Folder) -> str:
    steps = [path.parent.name.rpartition("-")[2] for path in folder.path.glob("checkpoint-*/complete.json")]
    numbers = [int(step) for step in steps if step.isdigit()]
    return f"checkpoint-{max(numbers)}" if numbers else "there is none yet"


def results(folder: Folder) -> Markup:
    """Return the figures of the answers before and after training, and some of the answers; empty without any."""
    summary = folder.json("summary.json")
    columns = {when: mapping(summary.get(when)) for when in ("before", "shown", "after")}
    columns = {when: figures for when, figures in columns.items() if figures}
    rows = []
    for name, label in LABELS.items():
        if any(number(figures.get(name)) is not None for figures in columns.values()):
            rows.append([label, *(shown(figures.get(name)) for figures in columns.values())])
    axes = {axis: None for figures in columns.values() for axis in mapping(figures.get("axes"))}
    rows += [
        [f"share {axis}", *(shown(mapping(figures.get("axes")).get(axis)) for figures in columns.values())]
        for axis in axes
    ]
    titles = {"before": "before", "shown": "shown the wish", "after": "after"}
    parts = [table(["validation answers", *(titles[when] for when in columns)], rows)]
    if pairs := answers(folder):
        parts.append(folded("Some of these answers", pairs))
    return joined(parts)


def guard(folder: Folder) -> Markup:
    """Return what the guard found: the steps of which it warned, with the measure; empty if it measured nothing."""
    measured, found = 0, list[str]()
    for row in folder.rows("guard.jsonl"):
        measured += 1
        if (level := number(row.get("level"))) and len(found) < _MOST_FOUND:
            texts = [f"{name} {shown(value)}" for name, value in mapping(row.get("measures")).items()]
            found.append(f"step {shown(row.get('step'))}, {_LEVELS.get(int(level), 'level')}: {'; '.join(texts)}")
    if not measured:
        return Markup("<p>The guard measured nothing: there is no guard.jsonl.</p>")
    if not found:
        return Markup("<p>The guard measured {:,} steps and found nothing.</p>").format(measured)
    return Markup("<p>Of {:,} steps the guard found something in these:</p>{}").format(measured, bullets(found))


def user_trial(folder: Folder) -> Markup:
    """Return what the trial of the simulated user before training found; empty without a trial."""
    trial = folder.json("user-trial.json")
    figures = [(name.replace("_", " "), shown(value)) for name, value in mapping(trial.get("figures")).items()]
    return facts(figures) + bullets((str(text) for text in listing(trial.get("failures"))), "missing")


def cost(folder: Folder, metrics: Metrics) -> Markup:
    """Return the time, the tokens, the memory and what models behind an API cost."""
    seconds = number(folder.json("summary.json").get("seconds"))
    total = sum(metrics.seconds.values())
    parts = [
        (_PARTS.get(name, name), f"{duration(value)} ({value / total:.0%})")
        for name, value in metrics.seconds.items()
        if value and total
    ]
    rows: list[tuple[str, Any]] = [
        ("time, whole run", duration(seconds) if seconds else ""),
        ("time, all steps", duration(total) if total else ""),
        *parts,
        ("steps", f"{metrics.rows:,}" if metrics.rows else ""),
        ("interactions", shown(metrics.last.get("interactions")) if metrics.rows else ""),
        ("without a usable follow-up", f"{metrics.lost_rows:,.0f}" if metrics.lost_rows else ""),
        ("tokens of answers", f"{metrics.tokens:,.0f}" if metrics.tokens else ""),
        ("peak memory", f"{metrics.peak_memory_gb:.2f} GB" if metrics.peak_memory_gb else ""),
    ]
    return facts(rows) + api_cost(folder)


def api_cost(folder: Folder) -> Markup:
    """Return what models behind an API were asked and cost, by model; empty without a meter.json."""
    meter = folder.json("meter.json")
    # A training run has one model, an evaluation a meter per judge.
    meters: Mapping[str, Any] = {str(meter.get("model", "model")): meter} if "requests" in meter else meter
    rows = [
        [
            name,
            *(shown(figures.get(part)) for part in ("requests", "cached", "failures", "tokens_in", "tokens_out")),
            "no price known" if number(figures.get("cost")) is None else f"${figures['cost']:.4f}",
        ]
        for name, figures in meters.items()
        if isinstance(figures, dict)
    ]
    return table(["model behind an API", "requests", "from cache", "failed", "tokens in", "tokens out", "cost"], rows)


def checkpoints(folder: Folder) -> list[str]:
    """Return the names of the folder's checkpoints, the incomplete and the damaged ones marked."""
    names = []
    for path in sorted(folder.path.glob("*checkpoint-*"), key=_step):
        if path.is_dir():
            whole = (path / "complete.json").is_file() and path.name.startswith("checkpoint")
            names.append(path.name if whole else f"{path.name} (not usable)")
    return names


def _step(path: Any) -> tuple[int, str]:
    text = path.name.rpartition("-")[2]
    return (int(text) if text.isdigit() else 0, path.name)
