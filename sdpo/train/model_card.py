"""The model card of a run: the README.md of its run directory and of a merged model."""

from pathlib import Path

from sdpo.errors import RunError
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings.checks import repository_name
from sdpo.settings.recorded import under_present_names
from sdpo.train.results import LABELS

METHOD = "https://arxiv.org/abs/2603.12273"
# The settings shown on the card; run.json has all of them.
SHOWN = (
    "model", "style", "user_model_name_or_path", "train_jsonl", "recipe", "teacher", "objective",
    "direction", "hindsight_template", "null_contrast", "contrast_strength", "contrast_margin", "contrast_plausibility",
    "learn_from", "rehearsal", "focus", "adapter", "lr", "bs", "ga", "world_size", "train_n", "seed",
)  # fmt: skip


def write_card(run: RunDirectory, job: str, license: str | None = None, folder: Path | None = None) -> None:
    """Write README.md to the run directory, and to `folder` if one is given.

    `license` is named instead of the one that the run was started with.
    """
    started, summary = run.read_json("run.json") or {}, run.read_json("summary.json") or {}
    if license is not None:
        started["settings"] = started.get("settings", {}) | {"model_license": license}
    run.write_text("README.md", card(job, started, summary))
    if folder is not None:
        RunDirectory(folder).write_text("README.md", card(job, started, summary, merged=True))


def card(job: str, started: dict, summary: dict, merged: bool = False) -> str:
    """Return the card's text; `started` is the content of run.json, `summary` that of summary.json.

    The hub reads its head: base model, licence, data, and the figures after training as a model index. Folders are
    shown by their names alone: a card may be published. With `merged` it is that of the model with the adapter merged.
    """
    settings, versions = under_present_names(started.get("settings", {})), started.get("versions", {})
    name = settings.get("run_id") or job
    lines = [
        "---",
        _head(name, settings, summary, merged),
        "---",
        "",
        f"# {name}",
        "",
        f"Trained with `{job}`: self-distillation policy optimization from user interactions ([paper]({METHOD})). "
        "The model learned from what users wrote after its answers, without a reward model.",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {name.upper()} | {_shown(settings[name])} |" for name in SHOWN if settings.get(name) is not None),
        "",
        *_figures(summary),
        f"{summary.get('steps', 0)} optimizer steps"
        + (f" in {summary['seconds']:.0f} s." if "seconds" in summary else "."),
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


def _head(name: str, settings: dict, summary: dict, merged: bool) -> str:
    """Return the card's metadata as YAML, in the hub's fields."""
    from huggingface_hub import EvalResult, ModelCardData

    base, data = settings.get("model", ""), settings.get("train_jsonl") or settings.get("replay_jsonl")
    source = _source_of(data)
    after = summary.get("after") or {}
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=source or "validation-prompts",
            dataset_name="validation prompts",
            metric_type=figure,
            metric_name=label,
            metric_value=round(after[figure], 4),
        )
        for figure, label in LABELS.items()
        if after.get(figure) is not None
    ]
    return ModelCardData(
        base_model=base if _is_on_hub(base) else None,
        license=settings.get("model_license"),
        datasets=[source] if source else None,
        library_name="transformers" if merged or settings.get("adapter", "none") == "none" else "peft",
        pipeline_tag="text-generation",
        tags=["sdpo", "user-interactions"],
        model_name=name if results else None,
        eval_results=results or None,
    ).to_yaml()


def _is_on_hub(name: str) -> bool:
    """Return whether a model's name is one of the hub's, by its form; the hub refuses a card with another."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return bool(name) and not Path(name).exists()


def _source_of(data: str | None) -> str | None:
    """Return the hub's dataset that a data file was prepared from, by the report beside it; None if there is none."""
    if data is None:
        return None
    report = RunDirectory(Path(data).parent)
    try:
        source = str((report.read_json("report.json") or {}).get("source", ""))
    except (RunError, OSError):
        return None
    return source if repository_name(source) is None and not Path(source).exists() else None


def _shown(value: object) -> object:
    """Return a setting's value, of a path outside the working folder only the last part."""
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


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
