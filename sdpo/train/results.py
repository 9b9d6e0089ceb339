"""What a training run prints at its end: answers side by side, the table of figures, and the path of the picture."""

from itertools import zip_longest

from sdpo.runtime.run_directory import RunDirectory
from sdpo.train.figures import cut, draw_training, wrapped

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
    picture = draw_training(run, summary, answer_pairs(run))
    print(f"picture: {picture}\nsummary: {run.path / 'summary.json'}", flush=True)


def answers_file(when: str) -> str:
    """Return the name of the file with the answers of `when`: before, shown or after."""
    return f"answers-{when}.jsonl"


def answer_pairs(run: RunDirectory, count: int = 3) -> list[tuple[str, str, str]]:
    """Return (prompt, answer before, answer after) of validation prompts that are spread evenly over their file."""
    before, after = (run.read_rows(answers_file(when)) for when in ("before", "after"))
    pairs = [(old["prompt"], old["answer"], new["answer"]) for old, new in zip(before, after, strict=False)]
    count = min(count, len(pairs))
    return [pairs[index * len(pairs) // count] for index in range(count)]


def side_by_side(run: RunDirectory, count: int = 3, width: int = 57, lines: int = 12) -> str:
    """Return some validation answers before and after training in two columns, cut to `lines` lines each."""
    blocks = []
    for prompt, *answers in answer_pairs(run, count):
        columns = [wrapped(answer, width, lines) for answer in answers]
        rows = [f"{left:{width}} | {right}" for left, right in zip_longest(*columns, fillvalue="")]
        prompt = cut(" ".join(prompt.split()), 2 * width)
        blocks.append("\n".join([f"> {prompt}", f"{'before':{width}} | after", *rows]))
    return "\n\n".join(blocks)


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
