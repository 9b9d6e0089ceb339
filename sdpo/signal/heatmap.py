"""The figures of the signal analysis: heatmaps of all cases by position, and one figure per case with every token.

Sizes are computed in points before anything is drawn, so that no two labels overlap: the font is monospaced, its
character width is measured, and text is wrapped to the width available.
"""

import math
import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle

from sdpo.runtime.figures import save_figure
from sdpo.runtime.glyphs import figure_text
from sdpo.signal.colours import STOPS, colour, ink, mark, scale_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONT, POINT = "DejaVu Sans Mono", 1 / 72  # inches
DPI = 110
UNIT = "log π(y | x, o) − log π(y | x), nats per token; square-root colour scale"
_SIGNS = "line above a token: more likely with hindsight; below: less likely"
KINDS = {"unrelated": "unrelated follow-up", "followup": "relevant follow-up"}

Row = dict[str, Any]


# Heatmaps: cases by position


def draw_heatmaps(folder: Path, cases: Sequence[Row], limit: float) -> list[Path]:
    """Write unrelated.png, followup.png, stacked.png and side_by_side.png; return their paths."""
    layouts = {
        "unrelated": (["unrelated"], 1),
        "followup": (["followup"], 1),
        "stacked": (["unrelated", "followup"], 1),
        "side_by_side": (["unrelated", "followup"], 2),
    }
    return [
        _draw_grid(folder / f"{name}.png", cases, kinds, columns, limit) for name, (kinds, columns) in layouts.items()
    ]


def _draw_grid(path: Path, cases: Sequence[Row], kinds: list[str], columns: int, limit: float) -> Path:
    longest = max(len(case["tokens"]) for case in cases)
    names = [_cut(figure_text(case["id"]), 28) for case in cases]
    label = max(map(len, names)) * _advance(7.5) * POINT + 0.35
    rows = len(kinds) // columns
    wide, high = min(max(3.6, 0.05 * longest), 9.0), 0.24 * len(cases)
    head, foot, top, scale = 0.35, 0.55, 0.25, 0.85
    # Only the first column of panels has the case names: those of a second column would be the same.
    width = label + columns * wide + (columns - 1) * 0.3 + 0.25
    height = top + rows * (head + high + foot) + scale
    figure = pyplot.figure(figsize=(width, height), dpi=DPI)
    for index, kind in enumerate(kinds):
        row, column = divmod(index, columns)
        left, bottom = label + column * (wide + 0.3), height - top - row * (head + high + foot) - head - high
        axes = figure.add_axes((left / width, bottom / height, wide / width, high / height))
        _draw_panel(axes, cases, kind, longest, limit)
        axes.set_yticks([row + 0.5 for row in range(len(cases))], names if column == 0 else [""] * len(names))
        axes.tick_params(axis="y", length=0, labelsize=7.5, labelfontfamily=FONT)
    _draw_scale(figure, limit, (label, width - 0.35), 0.42, width, height)
    return save_figure(figure, path, DPI)


def _draw_panel(axes: "Axes", cases: Sequence[Row], kind: str, longest: int, limit: float) -> None:
    cells, colours, lines = [], [], []
    for row, case in enumerate(cases):
        for index, value in enumerate(case["signal"][kind]):
            cells.append(Rectangle((index, row + 0.08), 1, 0.84))
            colours.append([part / 255 for part in colour(value, limit)])
            if side := mark(value, limit):
                line = row + (0.14 if side == "more" else 0.86)
                lines.append([(index, line), (index + 1, line)])
    axes.add_collection(PatchCollection(cells, facecolor=colours, edgecolor="none"))
    axes.add_collection(LineCollection(lines, colors="black", linewidths=0.8))
    axes.set_xlim(0, longest)
    axes.set_ylim(len(cases), 0)
    mean = _mean_size(cases, kind)
    axes.set_title(f"{KINDS[kind]}: mean |signal| {mean:.3g} nats", fontsize=9, loc="left")
    axes.set_xlabel("token position in the answer", fontsize=8)
    axes.tick_params(axis="x", labelsize=7.5)
    axes.locator_params(axis="x", integer=True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _mean_size(cases: Sequence[Row], kind: str) -> float:
    values = [abs(value) for case in cases for value in case["signal"][kind]]
    return sum(values) / len(values)


def _draw_scale(
    figure: "Figure", limit: float, span: tuple[float, float], bottom: float, width: float, height: float
) -> None:
    """Draw the colour scale, at most four inches wide, with its unit and a legend; all positions are in inches."""
    left, wide = span[0], min(span[1] - span[0], 4.0)
    axes = figure.add_axes((left / width, bottom / height, wide / width, 0.13 / height))
    # Evenly spaced in colour, which encodes the square root of the signal.
    colours = ScalarMappable(Normalize(-1, 1), LinearSegmentedColormap.from_list("signal", STOPS))
    bar = figure.colorbar(colours, cax=axes, orientation="horizontal", ticks=[-1, -0.5, 0, 0.5, 1])
    bar.ax.set_xticklabels(scale_labels(limit))
    bar.ax.tick_params(labelsize=7.5, length=2)
    figure.text(left / width, (bottom + 0.17) / height, UNIT, fontsize=7.5, va="bottom")
    figure.text(0.1 / width, 0.05 / height, _SIGNS, fontsize=7, va="bottom", color="#444444")


# One case with every token

_SIZE, _SMALL = 8.0, 5.5  # points
_LINE, _HEAD = 25.0, 11.5  # height of a line of cells and of a line of text, in points
_COLUMNS = 74  # width of a panel in characters
_GAP, _MARGIN = 18.0, 12.0


def draw_case(path: Path, case: Row, limit: float) -> Path:
    """Write one case: its answer twice, side by side, every token a cell with its signal under it."""
    char = _advance(_SIZE)
    panel = _COLUMNS * char
    heads = {kind: _head_lines(case, kind) for kind in KINDS}
    cells = [figure_text(piece, spaces=True) or "…" for piece in case["tokens"]]
    breaks = [piece.endswith("\n") for piece in case["tokens"]]
    head = max(len(lines) for lines in heads.values()) * _HEAD + 6
    placed, below = _flow(cells, breaks)
    width, height = 2 * _MARGIN + 2 * panel + _GAP, 14 + head + below + 62
    figure = pyplot.figure(figsize=(width * POINT, height * POINT), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    for number, kind in enumerate(KINDS):
        left = _MARGIN + number * (panel + _GAP)
        for line, words in enumerate(heads[kind]):
            weight = "bold" if words.startswith(KINDS[kind]) else "normal"
            axes.text(
                left, 14 + line * _HEAD, words, family=FONT, fontsize=_SIZE, va="top", weight=weight, parse_math=False
            )
        _draw_cells(axes, placed, case["signal"][kind], left, 14 + head, limit)
    _draw_scale(figure, limit, (0.35, width * POINT - 0.35), 0.38, width * POINT, height * POINT)
    return save_figure(figure, path, DPI)


def _head_lines(case: Row, kind: str) -> list[str]:
    """Return the text lines above a panel: kind of follow-up, case, prompt and follow-up; each is cut if too long."""
    follow_up = case["unrelated_followup" if kind == "unrelated" else "feedback_followup"]
    size = sum(map(abs, case["signal"][kind])) / len(case["signal"][kind])
    lines = [f"{KINDS[kind]}, mean |signal| {size:.3g}", *_wrap(f"case: {case['id']} ({case['tag']})", 2)]
    lines += _wrap(f"x (prompt): {case['raw_prompt']}", 3)
    return [*lines, *_wrap(f"o (follow-up): {follow_up}", 3)]


def _wrap(text: str, max_lines: int) -> list[str]:
    lines = textwrap.wrap(figure_text(" ".join(text.split())), _COLUMNS)
    return lines if len(lines) <= max_lines else [*lines[: max_lines - 1], _cut(lines[max_lines - 1] + " …", _COLUMNS)]


Placed = tuple[int, float, float, float, str]


def _flow(cells: list[str], breaks: list[bool]) -> tuple[list[Placed], float]:
    """Return (token, left, top, width, text) of each cell in points, wrapped, and the total height.

    A token wider than the panel continues in further cells on the next lines.
    """
    placed: list[Placed] = []
    char, column, line = _advance(_SIZE), 0, 0
    for token, (text, ends) in enumerate(zip(cells, breaks, strict=True)):
        for start in range(0, len(text), _COLUMNS):
            part = text[start : start + _COLUMNS]
            # A cell is as wide as the token and its number, which is in a smaller font: four columns hold −12.3.
            columns = max(len(part), 4)
            if column + columns > _COLUMNS:
                column, line = 0, line + 1
            placed.append((token, column * char, line * _LINE, columns * char, part))
            column += columns
        if ends:
            column, line = 0, line + 1
    return placed, (line + (column > 0)) * _LINE


def _draw_cells(axes: "Axes", placed: list[Placed], signal: list[float], left: float, top: float, limit: float) -> None:
    previous = -1
    for token, x, y, width, text in placed:
        value = signal[token]
        background = colour(value, limit)
        x, y, high = x + left, y + top, _LINE - 11
        shade = [part / 255 for part in background]
        axes.add_patch(Rectangle((x, y), width, high, facecolor=shade, edgecolor="#bbbbbb", linewidth=0.4))
        if side := mark(value, limit):
            line = y + 0.9 if side == "more" else y + high - 0.9
            axes.plot(
                [x + 0.6, x + width - 0.6], [line, line], color=ink(background), linewidth=1.4, solid_capstyle="butt"
            )
        axes.text(
            x + width / 2, y + high / 2, text, family=FONT, fontsize=_SIZE, ha="center", va="center",
            color=ink(background), parse_math=False,
        )  # fmt: skip
        if token != previous:
            axes.text(
                x + width / 2, y + high + 1.5, _number(value), family=FONT, fontsize=_SMALL, ha="center", va="top",
                color="#333333",
            )  # fmt: skip
        previous = token


@cache
def _advance(size: float) -> float:
    """Return the width of a monospaced character in points as it is drawn: hinting rounds it to whole pixels."""
    figure = pyplot.figure(dpi=DPI)
    text = figure.text(0, 0, "M" * 100, family=FONT, fontsize=size)
    width = text.get_window_extent().width
    pyplot.close(figure)
    return width / 100 * 72 / DPI


def _number(value: float) -> str:
    """Return a signal in at most five characters, with a typographic minus sign."""
    if not math.isfinite(value):
        return "nan" if math.isnan(value) else "+∞" if value > 0 else "−∞"
    return (f"{value:+.1f}" if abs(value) < 99.95 else f"{value:+.0f}").replace("-", "−")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
