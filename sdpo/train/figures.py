"""The table and the figure that a training run ends with."""

import textwrap
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from sdpo.runtime.figures import BLUE, GREEN, GREY, ORANGE, save_figure
from sdpo.runtime.run_directory import RunDirectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.typing import HashableList

SHARES = ("adherence", "validity")
# The figures of answers that tables show, in this order, by their names in summary.json.
LABELS = {
    "adherence": "adherence",
    "validity": "validity",
    "faithfulness": "facts kept",
    "mean_length": "mean words",
    "fluency": "fluency",
    "topic": "on topic",
    "leak": "leaks",
    "distance": "distance",
}


def print_results(run: RunDirectory, summary: dict) -> None:
    """Print the table, if answers were measured, then draw training.png and print where it is."""
    if "before" in summary:
        print(f"{side_by_side(run)}\n\n{table(summary)}")
    picture = draw_training(run, summary)
    print(f"picture: {picture}\nsummary: {run.path / 'summary.json'}", flush=True)


def answers_file(when: str) -> str:
    """Return the name of the file with the answers of `when`: before, shown or after."""
    return f"answers-{when}.jsonl"


def side_by_side(run: RunDirectory, count: int = 3, width: int = 57, lines: int = 12) -> str:
    """Return some validation answers before and after training in two columns, cut to `lines` lines each."""
    before, after = (run.read_rows(answers_file(when)) for when in ("before", "after"))
    blocks = []
    for old, new in list(zip(before, after, strict=False))[:count]:
        columns = [_wrapped(row["answer"], width, lines) for row in (old, new)]
        rows = [f"{left:{width}} | {right}" for left, right in zip_longest(*columns, fillvalue="")]
        prompt = _cut(" ".join(old["prompt"].split()), 2 * width)
        blocks.append("\n".join([f"> {prompt}", f"{'before':{width}} | after", *rows]))
    return "\n\n".join(blocks)


def _wrapped(text: str, width: int, lines: int) -> list[str]:
    wrapped = [line for part in text.splitlines() for line in textwrap.wrap(part, width) or [""]]
    return wrapped if len(wrapped) <= lines else [*wrapped[: lines - 1], "…"]


def table(summary: dict) -> str:
    """Return the figures before and after training as a text table, one row per figure."""
    before, after = summary["before"], summary["after"]
    figures = [(label, before.get(name), after.get(name)) for name, label in LABELS.items()]
    figures += [(f"share {axis}", share, after["axes"][axis]) for axis, share in before["axes"].items()]
    width = max(len(label) for label, _, _ in figures)
    rows = [f"{'':{width}}  {'before':>8}  {'after':>8}  {'change':>8}", "-" * (width + 30)]
    rows += [
        f"{label:{width}}  {old:8.3f}  {new:8.3f}  {new - old:+8.3f}"
        for label, old, new in figures
        if old is not None and new is not None
    ]
    return "\n".join(
        [f"style {summary['style']}, {summary['teacher']} teacher, {before['answers']} answers before and after", *rows]
    )


def draw_training(run: RunDirectory, summary: dict) -> Path:
    """Draw training.png and return its path.

    It has the curves over interactions, the figures before and after, and the signal per token of a few answers.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows, samples, guard = (run.read_rows(f"{name}.jsonl") for name in ("metrics", "samples", "guard"))
    upper: HashableList[str] = ["curves", "bars", "cells"]
    lower: HashableList[str] = ["guard", "bars", "cells"]
    figure, panels = pyplot.subplot_mosaic(
        [upper] * 2 + [lower] * bool(guard), figsize=(16, 5.2), width_ratios=[1, 1, 1.5], layout="constrained"
    )
    _draw_curves(panels["curves"], rows)
    if guard:
        _draw_guard(panels["guard"], guard)
        panels["guard"].sharex(panels["curves"])
    _draw_bars(panels["bars"], summary)
    _draw_signals(panels["cells"], _informative_samples(samples))
    path = run.path / "training.png"
    save_figure(figure, path)
    return path


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


def _draw_bars(axes: "Axes", summary: dict) -> None:
    axes.set_title(f"validation answers, style {summary['style']}")
    if "before" not in summary or summary["before"]["adherence"] is None:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "not measured: needs a judge (make eval)", ha="center", transform=axes.transAxes)
        return
    names = [*SHARES, *(f"share\n{axis}" for axis in summary["before"]["axes"])]
    for offset, when, colour in ((-0.2, "before", GREY), (0.2, "after", BLUE)):
        values = [summary[when][name] for name in SHARES] + list(summary[when]["axes"].values())
        positions = [index + offset for index in range(len(names))]
        axes.bar_label(axes.bar(positions, values, 0.38, label=when, color=colour), fmt="%.2f", fontsize=8)
    many = len(names) > 6
    axes.set_xticks(range(len(names)), [name.replace("\n", " ") for name in names] if many else names)
    axes.tick_params(axis="x", labelrotation=90 if many else 0, labelsize=8 if many else None)
    axes.set_ylim(0, 1.22)
    axes.legend(fontsize=9, ncols=2, loc="upper right")


def _informative_samples(samples: list[dict], count: int = 3) -> list[dict]:
    """Return early interactions with different follow-ups: those with the largest signals, and one with little."""
    early = [sample for sample in samples if sample["signal"]][: max(24, len(samples) // 4)]
    by_follow_up = {sample["follow_up"]: sample for sample in early}
    ranked = sorted(by_follow_up.values(), key=lambda sample: max(map(abs, sample["signal"])), reverse=True)
    # The last one has the least signal: typical of praise or a change of topic.
    return ranked if len(ranked) <= count else [*ranked[: count - 1], ranked[-1]]


def _draw_signals(axes: "Axes", samples: list[dict]) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    axes.set_axis_off()
    axes.set_title("log T(y | x, o) − log π(y | x) per token, in nats (T: the teacher)")
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
    follow_up = _printable(" ".join(sample["follow_up"].split()))
    axes.text(0, line, f"step {sample['step']}, the user: {_cut(follow_up, _WIDTH - 22)}", fontsize=9, va="center")
    line, column, last = line + 1.3, 0.0, line + 1.3 * _LINES
    for token, value in zip(sample["tokens"], sample["signal"], strict=True):
        text = _cut(_printable(token) or "␣", _WIDTH - 4)
        if column + len(text) > _WIDTH:
            column, line = 0.0, line + 1.3
        if line > last:
            break
        red, green, blue, _ = colour = colours.to_rgba(value)
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        axes.text(
            column, line, text, family="monospace", fontsize=7.5, va="center", color="white" if dark else "black",
            bbox={"facecolor": colour, "edgecolor": "#cccccc", "linewidth": 0.3, "pad": 1.2},
        )  # fmt: skip
        column += len(text) + 0.9
    return line + 1.9


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _printable(text: str) -> str:
    """Return the text with characters that the figure's font may lack replaced by their code points."""
    shown = text.replace("\n", "⏎").replace("\t", "⇥").strip().replace("$", r"\$")
    return "".join(char if ord(char) < 0x2600 else f"U+{ord(char):X}" for char in shown)
