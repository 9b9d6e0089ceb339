"""The model card of a run: the README.md of its run directory and of a merged model."""

from pathlib import Path

from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings.recorded import under_present_names
from sdpo.train.results import LABELS

METHOD = "https://arxiv.org/abs/2603.12273"
# The settings shown on the card; run.json has all of them.
SHOWN = (
    "model", "style", "user_model_name_or_path", "train_jsonl", "recipe", "teacher", "objective",
    "direction", "hindsight_template", "null_contrast", "contrast_strength", "contrast_margin", "contrast_plausibility",
    "learn_from", "rehearsal", "focus", "adapter", "lr", "bs", "ga", "world_size", "train_n", "seed",
)  # fmt: skip


def write_card(run: RunDirectory, job: str, folder: Path | None = None) -> None:
    """Write README.md to the run directory, and to `folder` if one is given."""
    text = card(job, run.read_json("run.json") or {}, run.read_json("summary.json") or {})
    for path in (run.path, *([folder] if folder else [])):
        RunDirectory(path).write_text("README.md", text)


def card(job: str, started: dict, summary: dict) -> str:
    """Return the card's text; `started` is the content of run.json, `summary` that of summary.json."""
    settings, versions = under_present_names(started.get("settings", {})), started.get("versions", {})
    base = settings.get("model", "")
    head = ["---", *([] if base.startswith(("/", ".")) else [f"base_model: {base}"])]
    head += ["library_name: transformers", "pipeline_tag: text-generation", "tags: [sdpo, user-interactions]", "---"]
    lines = [
        *head,
        "",
        f"# {settings.get('run_id') or job}",
        "",
        f"Trained with `{job}`: self-distillation policy optimization from user interactions ([paper]({METHOD})). "
        "The model learned from what users wrote after its answers, without a reward model.",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {name.upper()} | {settings[name]} |" for name in SHOWN if settings.get(name) is not None),
        "",
        *_figures(summary),
        f"{summary.get('steps', 0)} optimizer steps in {summary.get('seconds', 0):.0f} s.",
    ]
    if stopped := summary.get("stopped_by_guard"):
        lines += [
            "",
            f"The guard stopped the run after step {stopped['step']}: {'; '.join(stopped['reasons'])}. "
            f"{_advice(summary)}",
        ]
    lines += ["", f"Started {started.get('started')}, commit {started.get('commit')}. "]
    lines[-1] += ", ".join(f"{name} {version}" for name, version in versions.items() if version) + "."
    return "\n".join(lines) + "\n"


def _advice(summary: dict) -> str:
    """Return which checkpoint of a run that the guard stopped is good to use."""
    if best := summary.get("best_checkpoint"):
        return f"Use {best}, of which the figures after training are."
    return "None of its checkpoints is good to use; the figures after training are those of the model as it stopped."


def _figures(summary: dict) -> list[str]:
    before, after = summary.get("before"), summary.get("after")
    if not before or not after:
        return []
    rows = [
        f"| {label} | {before[name]:.3f} | {after[name]:.3f} |"
        for name, label in LABELS.items()
        if before.get(name) is not None and after.get(name) is not None
    ]
    return [f"| {after['answers']} sampled answers each time | before | after |", "|---|---|---|", *rows, ""]
