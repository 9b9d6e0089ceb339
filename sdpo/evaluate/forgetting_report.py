"""The matrix of several runs: a table on the terminal, forgetting.json and the heat map forgetting.png."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdpo import settings as settings_module
from sdpo.evaluate.condition_report import aligned, as_json, condition_table, rounded
from sdpo.evaluate.evidence import Condition, finite
from sdpo.evaluate.forgetting_matrix import WIN_RATE, Cell, Forgotten, Matrix
from sdpo.evaluate.sequence import Stage
from sdpo.runtime.commands import command, given_to_repeat
from sdpo.runtime.ending import say
from sdpo.runtime.figures import ORANGE, printable, save_figure
from sdpo.runtime.provenance import provenance
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import EvalSettings

# In the order of writing.
FILES = ("forgetting.png", "forgetting.json")


@dataclass(frozen=True)
class Forgetting:
    """Everything that an evaluation of several runs reports.

    `prompts` is the number of prompts that were answered, `weights` are the models' fingerprints by name.
    """

    stages: Sequence[Stage]
    matrix: Matrix
    conditions: Mapping[str, Condition]
    notes: Sequence[str]
    prompts: int
    weights: Mapping[str, str]


def write(folder: RunDirectory, settings: EvalSettings, found: Forgetting) -> None:
    """Print the tables, write both files and print their paths."""
    print(
        f"\n{len(found.stages)} runs after each other, {found.prompts} prompts\n\n{table(found.matrix)}\n", flush=True
    )
    if found.conditions:
        print(f"condition\n{condition_table(found.conditions)}\n", flush=True)
    for note in found.notes:
        print(f"note: {note}", flush=True)
    draw_matrix(folder.path / FILES[0], found.matrix)
    folder.write_json(
        FILES[1],
        {
            "settings": settings_module.redacted(settings),
            "given": given_to_repeat(settings),
            **finite(_summary(found)),
            **provenance(),
        },
    )
    say(
        f"{len(found.stages)} runs on {found.prompts} prompts: what each has learned, and what was forgotten since.",
        {"picture": folder.path / FILES[0], "figures": folder.path / FILES[1]},
        command("report", run_dir=folder.path),
        "one page about it",
    )


def table(matrix: Matrix) -> str:
    """Return the matrix as text, followed by a line for each taste that was learned before the last run."""
    rows = [["", *(_title(matrix, taste) for taste in matrix.tastes)]]
    rows += [[model, *(_text(matrix.cells[model, taste]) for taste in matrix.tastes)] for model in matrix.models]
    lines = [_forgotten_line(row, matrix.models[-1]) for row in matrix.forgotten()]
    return "\n".join([aligned(rows), *([""] if lines else []), *lines])


def draw_matrix(path: Path, matrix: Matrix) -> Path:
    """Draw the heat map: a row per model, a column per taste; a frame where a taste was learned."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    models, tastes = matrix.models, matrix.tastes
    size = (2.6 + 1.5 * len(tastes), 1.6 + 0.6 * len(models))
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    cells = [[matrix.cells[model, taste] for taste in tastes] for model in models]
    values = np.array([[np.nan if cell.value is None else cell.value for cell in row] for row in cells])
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(tastes)), [printable(_title(matrix, taste)) for taste in tastes], rotation=20, ha="right")
    axes.set_yticks(range(len(models)), [printable(model) for model in models])
    for row, model in enumerate(models):
        for column, taste in enumerate(tastes):
            dark = values[row, column] < 0.5
            text = _number(cells[row][column].value)
            axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black")
            if matrix.learned_after[taste] == model:
                frame = Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, fill=False, edgecolor=ORANGE, linewidth=2)
                axes.add_patch(frame)
    axes.set_title("every taste after every run (framed: its own run)", fontsize=10)
    figure.colorbar(image, ax=axes, label="share of answers that fit, or win rate")
    return save_figure(figure, path)


def _summary(found: Forgetting) -> dict[str, Any]:
    matrix = found.matrix
    runs = [
        {
            "model": stage.name,
            "run": str(stage.run.path.resolve()),
            "checkpoint": stage.step,
            "started_from": stage.base,
            "style": stage.run.settings.get("style"),
        }
        for stage in found.stages
    ]
    return {
        "prompts": found.prompts,
        "runs": runs,
        "weights": dict(found.weights),
        "models": list(matrix.models),
        "tastes": list(matrix.tastes),
        "cells": [
            {"model": model, "taste": taste, **_without_answers(cell)} for (model, taste), cell in matrix.cells.items()
        ],
        "forgotten": [_all_rounded(asdict(row)) for row in matrix.forgotten()],
        "mean_forgotten": rounded(matrix.mean_forgotten()),
        "condition": {name: as_json(condition) for name, condition in found.conditions.items()},
        "notes": list(found.notes),
    }


def _without_answers(cell: Cell) -> dict[str, Any]:
    return _all_rounded({name: value for name, value in asdict(cell).items() if name != "fits"})


def _all_rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: rounded(value) if isinstance(value, float) else value for name, value in values.items()}


def _title(matrix: Matrix, taste: str) -> str:
    measured = {matrix.cells[model, taste].measure for model in matrix.models}
    return f"{taste} ({WIN_RATE})" if WIN_RATE in measured else taste


def _text(cell: Cell) -> str:
    return "–" if cell.value is None else f"{cell.value:.3f} [{cell.low:.3f}, {cell.high:.3f}]"


def _forgotten_line(row: Forgotten, last: str) -> str:
    if row.difference is None:
        return f"{row.taste}: no answer is judged better or worse than the start model's {row.learned_after} or {last}"
    error = "" if row.standard_error is None else f", s.e. {row.standard_error:.3f}"
    before, after = _number(row.learned), _number(row.last)
    return f"{row.taste}: {before} {row.learned_after}, {after} {last} ({row.difference:+.3f}{error})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
