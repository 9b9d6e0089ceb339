"""What a training run prints at its end: answers side by side, the table of figures, and what came of it."""

from sdpo import progress
from sdpo.runtime import ending
from sdpo.runtime.columns import side_by_side, spread
from sdpo.runtime.commands import command
from sdpo.runtime.evaluation import next_evaluation
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import OfflineSettings, OnlineSettings
from sdpo.train.figures import draw_training

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
    """Print answers and their figures, if answers were measured, draw training.png, and say what came of the run."""
    pairs = answer_pairs(run)
    if "after" in summary:
        print(f"{side_by_side(pairs)}\n\n{table(summary)}\n")
    with progress.task("drawing the figure"):
        picture = draw_training(run, summary, pairs)
    files = {"picture": picture, "summary": run.path / "summary.json"}
    then, why = next_evaluation(run)
    if not then:
        then, why = command("report", run_dir=run.path), "one page about the run"
    ending.say(outcome(run, summary), files, then, why)


def print_if_never_met(summary: dict, settings: OnlineSettings | OfflineSettings) -> None:
    """Print a note if no answer of the untrained model fits the style: what may come of training then."""
    before, shown = ((summary[when] or {}).get("adherence") for when in ("before", "shown"))
    if before != 0 or shown is None:
        return
    note = f"note: none of {summary['before']['answers']} answers fits STYLE={settings.style}"
    if shown == 0:
        note += ", also with the wish shown: the model may be unable to meet it, and then complaints teach nothing"
    elif settings.objective in ("full", "top_k") and settings.direction == "forward":
        return
    else:
        note += (
            f", {shown:.0%} do with the wish shown: what the model never says by itself is hardly learned with "
            "OBJECTIVE=token or the reverse divergence. OBJECTIVE=full DIRECTION=forward counts it "
            "(docs/guides/choosing.md)"
        )
    print(note, flush=True)


def outcome(run: RunDirectory, summary: dict) -> str:
    """Return what came of the run in one sentence."""
    rows = run.read_rows("metrics.jsonl")
    begin = f"After {rows[-1]['interactions'] if rows else 0} interactions"
    before, after = (summary.get(when, {}) for when in ("before", "after"))
    if None not in (before.get("adherence"), after.get("adherence")):
        fits = f"{after['adherence']:.0%} of the answers fit {summary['style']}, {before['adherence']:.0%} before"
        return f"{begin} {fits}; {after['validity']:.0%} are valid, {before['validity']:.0%} before."
    if not rows:
        return f"{begin} nothing has changed."
    first, last = rows[0]["signal_size"], rows[-1]["signal_size"]
    return f"{begin} the mean |signal| per token is {last:.3f} nats, {first:.3f} in the first step."


def answers_file(when: str) -> str:
    """Return the name of the file with the answers of `when`: before, shown or after."""
    return f"answers-{when}.jsonl"


def answer_pairs(run: RunDirectory) -> list[tuple[str, str, str]]:
    """Return (prompt, answer before, answer after) of validation prompts that are spread evenly over their file."""
    before, after = (run.read_rows(answers_file(when)) for when in ("before", "after"))
    return spread([(old["prompt"], old["answer"], new["answer"]) for old, new in zip(before, after, strict=False)])


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
