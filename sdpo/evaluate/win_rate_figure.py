"""winrate.png: win rate and length over the run's steps, with their intervals."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdpo.evaluate.win_rates import WinRate
from sdpo.runtime.figures import BLUE, GREEN, GREY, ORANGE, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", "#56b4e9", "#e69f00")
_MARKS = "osD^vP"


def draw_win_rates(path: Path, title: str, rows: Sequence[WinRate]) -> Path:
    """Draw the picture; what is not known is a gap."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (rates, lengths) = pyplot.subplots(1, 2, figsize=(13, 4.6), layout="constrained")
    figure.suptitle(_printable(title), fontsize=11)
    known = [row for row in rows if not row.problem]
    steps = sorted({row.checkpoint for row in known})
    judges = list(dict.fromkeys(row.judge for row in known))
    _draw_rates(rates, known, judges, steps)
    _draw_lengths(lengths, [row for row in known if row.judge == judges[0]])
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
        places = [steps.index(row.checkpoint) + shift for row in own]
        values = [row.win_rate for row in own]
        below = [row.win_rate - row.wilson_low for row in own]
        above = [row.wilson_high - row.win_rate for row in own]
        look = {"color": _COLOURS[number % len(_COLOURS)], "marker": _MARKS[number % len(_MARKS)]}
        axes.errorbar(
            places, values, yerr=[below, above], linewidth=1.2, capsize=3, label=_printable(f"by {judge}"), **look
        )
        controlled = [row.controlled_rate for row in own]
        axes.scatter(
            [place + 0.05 for place in places], controlled, facecolors="none", edgecolors=look["color"],
            marker=look["marker"], label=_printable(f"by {judge}, at equal length"), zorder=3,
        )  # fmt: skip
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("win rate over non-ties")
    axes.set_title("against the baseline (bars: 95 %, Wilson)", fontsize=10)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="lower right")
    else:
        axes.text(0.5, 0.25, "no pair has a winner", ha="center", transform=axes.transAxes)


def _draw_lengths(axes: "Axes", rows: Sequence[WinRate]) -> None:
    places, values = range(len(rows)), [row.length for row in rows]
    errors = [
        [row.length - row.length_low for row in rows],
        [row.length_high - row.length for row in rows],
    ]
    axes.errorbar(places, values, yerr=errors, color=BLUE, marker="o", linewidth=1.2, capsize=3, label="checkpoint")
    axes.axhline(rows[0].baseline_length, color=GREY, linestyle="--", linewidth=1.2, label="baseline")
    axes.set_ylim(0, 1.08 * max(row.length_high for row in rows))
    axes.set_ylabel("mean length (characters)")
    axes.set_title("length of the answers (bars: 95 % of the mean)", fontsize=10)
    axes.legend(fontsize=8, loc="lower right")


def _printable(text: str) -> str:
    return text.replace("$", r"\$")
