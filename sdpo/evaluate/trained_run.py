"""The run that is evaluated: what it was trained with, as it recorded it, and its checkpoints.

Importing this is cheap.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpo import settings as settings_module
from sdpo.errors import RecordError, RunError, SettingError
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import DEFAULT, JOB, TINY, EvalSettings
from sdpo.text.records import read_prompts
from sdpo.users.simulator import persona_of

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job

RUN = "the run"
BASELINE = "Qwen/Qwen3-8B"  # where a run does not say what it started from
# Settings that both have: the run's value holds unless the user gives another.
SHARED = ("style", "style_file", "max_prompt_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class TrainedRun:
    """A run's directory and what run.json says; None where it does not say."""

    path: Path
    job: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    system_prompt: str | None = None
    prompt_suffix: str | None = None
    persona: str | None = None

    @property
    def model(self) -> str | None:
        """The model the run started from."""
        return self.settings.get("model_name_or_path") or self.settings.get("base_model")

    def checkpoints(self) -> dict[int, Path]:
        """Return step -> folder of the whole checkpoints, in order."""
        return RunDirectory(self.path).checkpoints()


def read_run(path: Path) -> TrainedRun:
    """Return the run in a folder. Raises RunError where there is none."""
    written = RunDirectory(path).read_json("run.json")
    if written is None:
        raise RunError(f"{path} has no run.json: it is no run's folder. Give the folder that a training job printed.")
    if not isinstance(written.get("settings"), dict):
        raise RunError(f"{path / 'run.json'} holds no settings. Give the folder of a training job.")
    names = {item.name for item in dataclasses.fields(TrainedRun)} - {"path"}
    facts = {name: value for name, value in written.items() if name in names}
    # Runs from before the job was recorded still name its module in their command.
    facts.setdefault("job", Path((written.get("command") or [""])[0]).stem.replace("_", "-"))
    return TrainedRun(path, **facts)


def newest_run(scratch: Path) -> Path | None:
    """Return the folder in `scratch` whose run with checkpoints began last, None without any."""
    folders = {path.parent for path in scratch.glob("*/*/checkpoint-*")}
    started = {path: (path / "run.json").stat().st_mtime for path in folders if (path / "run.json").exists()}
    return max(started, key=started.__getitem__, default=None)


def fill(settings: EvalSettings, job: "Job") -> EvalSettings:
    """Return the settings with what the run says in every place that the user left open."""
    path = settings.run_dir or newest_run(settings.scratch)
    if path is None:
        return _replaced(settings, run_id="eval")
    run = read_run(path)
    found: dict[str, Any] = {name: run.settings.get(name) for name in SHARED}
    found["baseline"] = run.model or BASELINE
    if run.job == job.name.replace("eval", "train-online", 1):
        found["val_jsonl"] = run.settings.get("val_jsonl")
    for name in ("style_file", "val_jsonl"):
        found[name] = Path(found[name]) if found.get(name) else None
    values = {name: value for name, value in found.items() if value is not None and _is_default(settings, name)}
    values |= {"run_dir": path} if settings.run_dir is None else {}
    values |= {"run_id": "eval"} if settings.run_id is None else {}
    if settings.output_dir is None:
        values["output_dir"] = path / "eval" / (settings.run_id or "")
    return _replaced(settings, **values)


def differences(settings: EvalSettings, run: TrainedRun, job: "Job") -> Iterator[str]:
    """Yield, in words, whatever is evaluated otherwise than the run was trained."""
    for name in (*SHARED, "baseline"):
        before = run.model if name == "baseline" else run.settings.get(name)
        now = getattr(settings, name)
        if before is not None and str(before) != str(now):
            verb = "started from" if name == "baseline" else "was trained with"
            yield f"{name.upper()}={now}, but the run {verb} {before}"
    if run.job and not run.job.endswith(job.name.removeprefix("eval-")):
        yield f"{job.name} on a run of {run.job}: other prompts than it was trained on, its own system prompt"
    if run.model is None:
        yield f"the run does not say what it started from: the baseline is {settings.baseline}"


def chosen_checkpoints(settings: EvalSettings, run: TrainedRun) -> dict[int, Path | None]:
    """Return step -> folder, None for one that is missing. Raises RunError where there is none at all."""
    whole = run.checkpoints()
    wanted = list(whole) if settings.steps is None else settings.steps
    if not any(step in whole for step in wanted):
        there = f"It has {', '.join(map(str, whole))}; give CKPTS." if whole else "It has none at all."
        raise RunError(f"{run.path} has no whole checkpoint of step {', '.join(map(str, wanted)) or 'any'}. {there}")
    return {step: whole.get(step) for step in wanted}


def persona(settings: EvalSettings, run: TrainedRun) -> str:
    """Return the taste to judge by: the run's own words, unless the user gives others. Raises SettingError without."""
    theirs = {"style", "style_file"} & set(settings_module.given(settings))
    if run.persona and not theirs:
        return run.persona
    if settings.style is None:
        raise SettingError(
            "STYLE is not set, and the run was trained on no taste of one name. Give the one to judge by."
        )
    return persona_of(settings.style, settings.style_file)


def trained_on(settings: EvalSettings, run: TrainedRun, job: "Job") -> set[str]:
    """Return the prompts that the run may have been trained on, as far as they can still be read."""
    path = run.settings.get("train_jsonl")
    if not path or not Path(path).exists():
        return set()
    try:
        return {row.prompt for row in read_prompts(Path(path), job.data_command)}
    except RecordError:
        return set()  # conversations, for one


def job_as_trained(job: "Job", run: TrainedRun) -> "Job":
    """Return the job with the system prompt and suffix that the run was trained with, where it says."""
    recorded = {"system_prompt": run.system_prompt, "prompt_suffix": run.prompt_suffix}
    return dataclasses.replace(job, **{name: value for name, value in recorded.items() if value is not None})


def _is_default(settings: EvalSettings, name: str) -> bool:
    return settings_module.source(settings, name) in (DEFAULT, JOB, TINY)


def _replaced(settings: EvalSettings, **values: Any) -> EvalSettings:
    return dataclasses.replace(settings, sources={**settings.sources, **dict.fromkeys(values, RUN)}, **values)
