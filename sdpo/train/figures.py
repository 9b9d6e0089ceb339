"""The figure that a training run ends with."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdpo.runtime.columns import cut, wrapped
from sdpo.runtime.figures import BLUE, GREEN, GREY, ORANGE, printable, save_figure
from sdpo.runtime.glyphs import MONOSPACED, PROPORTIONAL, figure_text
from sdpo.runtime.run_directory import RunDirectory
from sdpo.text.prompts import FOLLOW_UP_KINDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import SubFigure
    from matplotlib.typing import HashableList

SHARES = ("adherence", "validity")


def draw_training(run: RunDirectory, summary: dict, answers: Sequence[tuple[str, str, str]] = ()) -> Path:
    """Draw training.png and return its path.

    It has the curves over interactions, the figures before and after, and the signal per token of a few interactions;
    below them the `answers`: prompt, answer before and answer after.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows, samples, guard = (run.read_rows(f"{name}.jsonl") for name in ("metrics", "samples", "guard"))
    upper: HashableList[str] = ["curves", "shares", "cells"]
    lower: HashableList[str] = ["guard", "shares", "cells"]
    heights = [4.6, 2.4] if answers else [4.6]
    figure = pyplot.figure(figsize=(16, sum(heights)), layout="constrained")
    top, *bottom = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    panels = top.subplot_mosaic([upper] * 2 + [lower] * bool(guard), width_ratios=[1, 1, 1.5])
    _draw_curves(panels["curves"], rows)
    if guard:
        _draw_guard(panels["guard"], guard)
        panels["guard"].sharex(panels["curves"])
    _draw_shares(panels["shares"], summary)
    _draw_signals(panels["cells"], _informative_samples(samples))
    for part in bottom:
        _draw_answers(part, answers)
    path = run.path / "training.png"
    save_figure(figure, path)
    return path


def _shown(text: str, font: str = PROPORTIONAL) -> str:
    return printable(figure_text(text, font=font))


def _draw_curves(axes: "Axes", rows: list[dict]) -> None:
    interactions = [row["interactions"] for row in rows]
    right = axes
    if rows and "adherence" in rows[0]:
        for name, colour, line in zip(SHARES, (BLUE, GREEN), ("-", "--"), strict=True):
            axes.plot(interactions, [row[name] for row in rows], line, label=name, color=colour)
        axes.set_ylim(-0.02, 1.05)
        axes.set_ylabel("share of the step's answers")
        right = axes.twinx()
    right.plot(interactions, [row["signal_size"] for row in rows], ":", label="|signal| per token", color=ORANGE)
    right.set_ylabel("|signal| per token (nats)")
    right.set_ylim(bottom=0)
    axes.set_xlabel("interactions")
    axes.set_title("while training")
    handles = [line for part in dict.fromkeys((axes, right)) for line in part.get_lines()]
    axes.legend(
        handles, [str(line.get_label()) for line in handles], loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3,
        fontsize=9,
    )  # fmt: skip


def _draw_guard(axes: "Axes", rows: list[dict]) -> None:
    axes.plot([row["interactions"] for row in rows], [row["score"] for row in rows], color="black", linewidth=1)
    for level, label, colour in ((1, "warns", GREY), (2, "stops", ORANGE)):
        axes.axhline(level, color=colour, linewidth=1, linestyle="--")
        axes.annotate(label, (1.01, level), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axes.set_ylim(0, 2.2)
    axes.set_yticks((0, 1, 2))
    axes.set_ylabel("guard")


def _draw_shares(axes: "Axes", summary: dict) -> None:
    """Draw each share before and after as two points on a line, the style's own first."""
    axes.set_title(f"validation answers, style {summary['style']}")
    if "after" not in summary or summary["before"]["adherence"] is None:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "not measured: needs a judge (make eval)", ha="center", transform=axes.transAxes)
        return
    before, after = (_shares(summary[when]) for when in ("before", "after"))
    for line, name in enumerate(before):
        axes.plot([before[name], after[name]], [line, line], color=GREY, linewidth=1.5, zorder=1)
        axes.annotate(
            f"{before[name]:.2f} → {after[name]:.2f}", (1.04, line), xycoords=("axes fraction", "data"), va="center",
            fontsize=8, fontweight="bold" if line == 0 else None,
        )  # fmt: skip
    for shares, when, colour in ((before, "before", GREY), (after, "after", BLUE)):
        axes.scatter(list(shares.values()), range(len(shares)), s=42, color=colour, label=when, zorder=2)
    if "shown" in summary:
        shown = summary["shown"]["adherence"]
        axes.scatter([shown], [0], s=60, marker="|", color=ORANGE, label="before, with the wish shown", zorder=3)
    axes.set_yticks(range(len(before)), list(before), fontsize=8)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(len(before) - 0.5, -0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)


def _shares(figures: dict) -> dict[str, float]:
    """Return the shares of a summary's answers by the names that the figure gives them."""
    return {name: figures[name] for name in SHARES} | {
        f"share {axis}": value for axis, value in figures["axes"].items()
    }


_COLUMN, _ANSWER_LINES = 112, 4  # characters per line of an answer, and lines


def _draw_answers(figure: "SubFigure", answers: Sequence[tuple[str, str, str]]) -> None:
    """Draw the answers before and after side by side below their prompts."""
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, 2)
    line = 0.0
    for prompt, *both in answers:
        shown = cut(_shown(" ".join(prompt.split())), 2 * _COLUMN)
        axes.text(0, line, shown, fontsize=8.5, fontweight="bold", va="top")
        columns = [wrapped(text, _COLUMN, _ANSWER_LINES) for text in both]
        for column, (when, lines) in enumerate(zip(("before", "after"), columns, strict=True)):
            text = "\n".join(_shown(part) for part in lines)
            colour = BLUE if when == "after" else "#555555"
            axes.text(column, line + 1.1, f"{when}:", fontsize=8, va="top", color=colour, fontweight="bold")
            axes.text(column + 0.07, line + 1.1, text, fontsize=8, va="top", color=colour)
        line += 2.1 + max(map(len, columns))
    axes.set_ylim(line, 0)


def _informative_samples(samples: list[dict], count: int = 3) -> list[dict]:
    """Return early interactions with different follow-ups: first complaints, by their signals, and one with little.

    A complaint is what most is learned from, so whoever sees the figure for the first time should see one first.
    """
    early = [sample for sample in samples if sample["signal"]][: max(24, len(samples) // 4)]
    by_follow_up = {sample["follow_up"]: sample for sample in early}
    ranked = sorted(
        by_follow_up.values(),
        key=lambda sample: (_is_complaint(sample), max(map(abs, sample["signal"]))),
        reverse=True,
    )
    # The last one has the least signal: typical of praise or a change of topic.
    return ranked if len(ranked) <= count else [*ranked[: count - 1], ranked[-1]]


def _is_complaint(sample: dict) -> bool:
    """Return whether the user complains: as its kind was read, else by whether the user is satisfied."""
    kind, satisfied = sample.get("kind"), sample.get("satisfied")
    return kind == FOLLOW_UP_KINDS[0] if kind is not None else satisfied is False


def _draw_signals(axes: "Axes", samples: list[dict]) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    axes.set_axis_off()
    axes.set_title("signal of each token, in nats (blue: reinforced, red: discouraged)")
    if not samples:
        return
    limit = max(abs(value) for sample in samples for value in sample["signal"]) or 1.0
    colours = ScalarMappable(Normalize(-limit, limit), "RdBu")
    line = 0.0
    for sample in samples:
        line = _draw_signal(axes, sample, colours, line)
    axes.set_xlim(0, _WIDTH)
    axes.set_ylim(max(line, 12), -1)
    axes.figure.colorbar(colours, ax=axes, orientation="horizontal", fraction=0.05, pad=0.02)


_WIDTH = 76  # characters per line of the signal panel
_LINES = 4  # lines drawn of an answer


def _draw_signal(axes: "Axes", sample: dict, colours: "ScalarMappable", line: float) -> float:
    """Draw an answer's tokens as coloured cells below the follow-up, from `line` on; return the next free line."""
    follow_up = _shown(" ".join(sample["follow_up"].split()))
    axes.text(0, line, f"step {sample['step']}, the user: {cut(follow_up, _WIDTH - 22)}", fontsize=9, va="center")
    line, column, last = line + 1.3, 0.0, line + 1.3 * _LINES
    for token, value in zip(sample["tokens"], sample["signal"], strict=True):
        text = cut(_shown(token.strip(" ")) or "␣", _WIDTH - 4)
        if column + len(text) > _WIDTH:
            column, line = 0.0, line + 1.3
        if line > last:
            break
        red, green, blue, _ = colour = colours.to_rgba(value)
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        axes.text(
            column, line, text, family=[MONOSPACED, PROPORTIONAL], fontsize=7.5, va="center",
            color="white" if dark else "black",
            bbox={"facecolor": colour, "edgecolor": "#cccccc", "linewidth": 0.3, "pad": 1.2},
        )  # fmt: skip
        column += len(text) + 0.9
    return line + 1.9
