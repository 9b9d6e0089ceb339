"""winrate.png: win rate and answer length over the training steps, with 95 % intervals."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sdpo.evaluate.win_rates import WinRate
from sdpo.runtime.figures import BLUE, GREEN, GREY, ORANGE, printable, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", "#56b4e9", "#e69f00")
_MARKERS = "osD^vP"


def draw_win_rates(path: Path, title: str, rows: Sequence[WinRate], notes: Sequence[str] = ()) -> Path:
    """Draw the figure with notes below it, write it to `path` and return the path; undefined values are gaps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (rates, lengths) = pyplot.subplots(1, 2, figsize=(13, 4.6), layout="constrained")
    figure.suptitle(printable(title), fontsize=11)
    if notes:
        figure.supxlabel(printable("\n".join(map(_wrapped, notes))), fontsize=9, color=ORANGE)
    steps = sorted({row.checkpoint for row in rows})
    judges = list(dict.fromkeys(row.judge for row in rows))
    _draw_rates(rates, rows, judges, steps)
    _draw_lengths(lengths, [row for row in rows if row.judge == judges[0]])
    for axes in (rates, lengths):
        axes.set_xticks(range(len(steps)), [str(step) for step in steps])
        axes.set_xlim(-0.5, len(steps) - 0.5)
        axes.set_xlabel("checkpoint (training steps)")
    save_figure(figure, path)
    return path


def _draw_rates(axes: "Axes", rows: Sequence[WinRate], judges: Sequence[str], steps: Sequence[int]) -> None:
    axes.axhline(0.5, color=GREY, linewidth=1)
    for number, judge in enumerate(judges):
        shift = 0.12 * (number - (len(judges) - 1) / 2)
        own = [row for row in rows if row.judge == judge and row.win_rate is not None]
        if not own:
            continue
        x = [steps.index(row.checkpoint) + shift for row in own]
        values = _column(own, "win_rate")
        errors = [values - _column(own, "wilson_low"), _column(own, "wilson_high") - values]
        colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
        axes.errorbar(
            x, values, yerr=errors, linewidth=1.2, capsize=3, label=printable(f"by {judge}"),
            color=colour, marker=marker,
        )  # fmt: skip
        axes.scatter(
            [value + 0.05 for value in x], _column(own, "controlled_rate"), facecolors="none", edgecolors=colour,
            marker=marker, label=printable(f"by {judge}, at equal length"), zorder=3,
        )  # fmt: skip
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("win rate over non-ties")
    axes.set_title("against the baseline (bars: 95 %, Wilson)", fontsize=10)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="lower right")
    else:
        axes.text(0.5, 0.25, "no pair has a winner", ha="center", transform=axes.transAxes)


def _draw_lengths(axes: "Axes", rows: Sequence[WinRate]) -> None:
    values, highest = _column(rows, "length"), _column(rows, "length_high")
    errors = [values - _column(rows, "length_low"), highest - values]
    x = range(len(rows))
    axes.errorbar(x, values, yerr=errors, color=BLUE, marker="o", linewidth=1.2, capsize=3, label="checkpoint")
    baseline = _column(rows, "baseline_length")[0]
    axes.axhline(baseline, color=GREY, linestyle="--", linewidth=1.2, label="baseline")
    axes.set_ylim(0, 1.08 * max(highest.max(), baseline) or 1)
    axes.set_ylabel("mean length (characters)")
    axes.set_title("length of the answers (bars: 95 % of the mean)", fontsize=10)
    axes.legend(fontsize=8, loc="lower right")


def _column(rows: Sequence[WinRate], name: str) -> np.ndarray:
    """Return one field of all rows, NaN where it is None."""
    return np.array([getattr(row, name) for row in rows], dtype=np.float64)


def _wrapped(text: str) -> str:
    """Return the text in lines that fit the width of the figure."""
    return textwrap.fill(text, 150)
