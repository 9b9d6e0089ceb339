"""The overview of several folders: one row each, with what to compare them by."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from sdpo.report import evaluation, learning, training
from sdpo.report.curves import Metrics
from sdpo.report.folder import EVALUATION, LEARNING, TRAINING, Folder, mapping, number
from sdpo.report.html import duration, shown, table

_HEAD = ("part", "kind", "state", "style", "adherence", "time", "verdict")


def overview(parts: Sequence[Folder], names: Mapping[Path, str], runs: Mapping[Path, Metrics]) -> Markup:
    """Return one row per folder, with a link to its part of the page."""
    rows = []
    for index, part in enumerate(parts):
        link = Markup("<a href='#part{}'>{}</a>").format(index, names[part.path])
        rows.append([link, part.kind, *_cells(part, runs.get(part.path, Metrics()))])
    return table(_HEAD, rows)


def _cells(part: Folder, metrics: Metrics) -> list[str]:
    """Return state, style, adherence before and after, time and verdict of a folder, "" for what it has not."""
    if part.kind == TRAINING:
        summary, settings = part.json("summary.json"), mapping(part.json("run.json").get("settings"))
        figures = [number(mapping(summary.get(when)).get("adherence")) for when in ("before", "after")]
        change = " → ".join(map(shown, figures)) if any(figure is not None for figure in figures) else ""
        seconds = number(summary.get("seconds")) or sum(metrics.seconds.values())
        style = str(settings.get("style") or "")
        return [training.state(part, metrics)[0], style, change, duration(seconds) if seconds else "", ""]
    if part.kind == EVALUATION:
        settings = mapping(part.json("eval.json").get("settings"))
        style, state = str(settings.get("style") or ""), "finished" if part.has("eval.json") else "unfinished"
        return [state, style, "", "", evaluation.verdict(part)]
    if part.kind == LEARNING:
        state, sentence = learning.decision(part)
        return [state, "", "", "", sentence]
    state = "finished" if part.json("summary.json").get("finished") else "unfinished"
    return [state, "", "", "", learning.audit_verdicts(part)]
