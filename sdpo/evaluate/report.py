"""A run in a table and a picture."""

from pathlib import Path

from sdpo.run import RunDirectory


def table(summary: dict) -> str:
    """Return before and after as a text table: one row a figure, one column a time."""
    rows = [("", "before", "after", "change")]
    figures = {"adherence": "adherence", "validity": "validity", "faithfulness": "facts kept", "mean_length": "mean words"}
    for name, label in figures.items():
        rows.append(_row(label, *(summary[when].get(name) for when in ("before", "after"))))
    for axis in summary["before"]["axes"]:
        rows.append(_row(f"share {axis}", *(summary[when]["axes"][axis] for when in ("before", "after"))))
    rows = [row for row in rows if row]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))) for row in rows]
    title = f"style {summary['style']}, {summary['teacher']} teacher, {summary['before']['answers']} answers each"
    return "\n".join([title, lines[0], "-" * len(lines[0]), *lines[1:]])


def _row(label: str, before: float | None, after: float | None) -> tuple[str, str, str, str] | None:
    if before is None or after is None:
        return None
    return label, f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}"


def draw_training(run: RunDirectory, summary: dict) -> Path:
    """Draw training.png: the curves over interactions, before against after, one interaction's signal."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = run.read_rows("metrics.jsonl")
    figure, (curves, bars, cells) = pyplot.subplots(
        1, 3, figsize=(15, 4.2), gridspec_kw={"width_ratios": [1.1, 1, 1.3]}, layout="constrained"
    )
    _draw_curves(curves, rows)
    _draw_bars(bars, summary)
    _draw_signal(cells, _telling(run.read_rows("samples.jsonl")))
    path = run.path / "training.png"
    beside = path.with_name(".training.png")
    figure.savefig(beside, dpi=110, format="png")
    beside.replace(path)
    pyplot.close(figure)
    return path


def _draw_curves(axes, rows: list[dict]) -> None:
    interactions = [row["interactions"] for row in rows]
    if rows and "adherence" in rows[0]:
        axes.plot(interactions, [row["adherence"] for row in rows], label="adherence", color="#0072b2")
        axes.plot(interactions, [row["validity"] for row in rows], label="validity", color="#009e73", linestyle="--")
        axes.set_ylim(-0.02, 1.05)
        right = axes.twinx()
    else:
        right = axes
    right.plot(interactions, [row["signal_size"] for row in rows], label="|signal| per token", color="#d55e00", alpha=0.6)
    right.set_ylabel("|signal| per token (nats)")
    axes.set_xlabel("interactions")
    axes.set_title("while training")
    handles = [line for drawn in {axes, right} for line in drawn.get_lines()]
    axes.legend(handles, [line.get_label() for line in handles], loc="center right", fontsize=9)


def _draw_bars(axes, summary: dict) -> None:
    if "before" not in summary or summary["before"]["adherence"] is None:
        axes.set_axis_off()
        return
    names = ["adherence", "validity", *summary["before"]["axes"]]
    for offset, when, colour in ((-0.2, "before", "#999999"), (0.2, "after", "#0072b2")):
        part = summary[when]
        values = [part["adherence"], part["validity"], *part["axes"].values()]
        drawn = axes.bar([place + offset for place in range(len(names))], values, 0.38, label=when, color=colour)
        axes.bar_label(drawn, fmt="%.2f", fontsize=8)
    axes.set_xticks(range(len(names)), [name if i < 2 else f"share\n{name}" for i, name in enumerate(names)])
    axes.set_ylim(0, 1.15)
    axes.set_title(f"validation answers, style {summary['style']}")
    axes.legend(fontsize=9)


def _telling(samples: list[dict]) -> dict | None:
    """Return the sampled interaction with the largest signal on a token."""
    return max(samples, key=lambda sample: max(map(abs, sample["signal"]), default=0.0), default=None)


def _draw_signal(axes, sample: dict | None) -> None:
    axes.set_axis_off()
    if sample is None:
        return
    limit = max(map(abs, sample["signal"])) or 1.0
    column, line, colours = 0.0, 0, axes.figure.colorbar
    from matplotlib import colormaps, colors

    colormap, norm = colormaps["RdBu"], colors.Normalize(-limit, limit)
    width = 44
    for token, value in list(zip(sample["tokens"], sample["signal"], strict=True))[:120]:
        text = _printable(token)
        if column + len(text) > width:
            column, line = 0.0, line + 1
        red, green, blue, _ = colour = colormap(norm(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        axes.text(
            column / width, 1 - (line + 3.2) * 0.085, text, family="monospace", fontsize=9,
            color="white" if dark else "black", bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip
        column += len(text) + 0.6
    follow_up = " ".join(sample["follow_up"].split())
    axes.set_title(f"signal after “{follow_up[:52]}{'…' if len(follow_up) > 52 else ''}”\n(step {sample['step']}, nats)", fontsize=10)
    from matplotlib.cm import ScalarMappable

    colours(ScalarMappable(norm, colormap), ax=axes, orientation="horizontal", fraction=0.06, pad=0.02)


def _printable(token: str) -> str:
    """Return a token in characters that the figure's font has; others as their code point."""
    shown = token.replace("\n", "⏎").replace("\t", "⇥").strip() or "␣"
    return "".join(char if ord(char) < 0x2600 else f"U+{ord(char):X}" for char in shown).replace("$", r"\$")
