"""The training run that is evaluated: the settings it recorded in run.json, and its checkpoints.

Importing this is cheap.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpo import settings as settings_module
from sdpo.errors import RunError, SettingError
from sdpo.evaluate.run_folders import named_runs, newest_run, no_run
from sdpo.runtime.checkpoint_files import WEIGHTS, damage
from sdpo.runtime.commands import command
from sdpo.runtime.processes import visible_gpus
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import DEFAULT, JOB, MACHINE, RUN, TINY, EvalSettings
from sdpo.settings.recorded import under_present_names
from sdpo.users.styles import FILE as STYLES
from sdpo.users.styles import own_styles, persona_of

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job

BASELINE = "Qwen/Qwen3-8B"  # for a run that did not record the model it started from
# Settings of both training and evaluation: the run's value is used unless the user gives another.
# The checkpoints that the paper's authors evaluate, of runs of this length.
_PUBLISHED = (3, 6, 9, 12, 15)
_MOST = 5
SHARED = ("style", "style_file", "max_prompt_tokens", "max_completion_tokens")


@dataclass(frozen=True)
class TrainedRun:
    """A run's directory and the contents of its run.json; None for what was not recorded."""

    path: Path
    job: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    system_prompt: str | None = None
    prompt_suffix: str | None = None
    persona: str | None = None
    given: dict[str, Any] | None = None
    folder: str | None = None  # the working directory of the run

    def located(self, path: str | Path) -> Path:
        """Return a recorded path; if it is not there from here, but was from the run's working directory, from that."""
        other = Path(self.folder or "") / path
        return other if not Path(path).exists() and other.exists() else Path(path)

    @property
    def model(self) -> str | None:
        """The model the run started from, None if it was not recorded; of a folder where it is from here."""
        recorded = self.settings.get("model")
        return str(self.located(recorded)) if recorded and not Path(recorded).exists() else recorded

    @property
    def style_file(self) -> Path | None:
        """The file with the run's own styles as they were when it began; of an older run its STYLE_FILE, if any."""
        kept, given = self.path / STYLES, self.settings.get("style_file")
        return kept if kept.is_file() else Path(given) if given else None

    @property
    def is_offline(self) -> bool:
        """Whether the run was trained on logged conversations."""
        return self.job.startswith("train-offline")

    def warned_steps(self) -> set[int]:
        """Return the steps of which the guard warned, if it stopped the run; else an empty set."""
        folder = RunDirectory(self.path)
        if not (folder.read_json("summary.json") or {}).get("stopped_by_guard"):
            return set()
        return {row["step"] for row in folder.read_rows("guard.jsonl") if row.get("level")}

    def checkpoints(self) -> dict[int, Path]:
        """Return step -> folder of the complete checkpoints whose weights are whole, in order of their steps."""
        complete = RunDirectory(self.path).checkpoints()
        return {step: folder for step, folder in complete.items() if not damage(folder, WEIGHTS)}


def read_run(path: Path) -> TrainedRun:
    """Return the run in a folder. Raises RunError if run.json is missing or has no settings."""
    written = RunDirectory(path).read_json("run.json")
    if written is None:
        inside = sorted(str(found.parent) for found in [*path.glob("*/run.json"), *path.glob("*/*/run.json")])
        advice = f"Give one in it, such as {inside[-1]}." if inside else "Give one that a training job printed."
        raise RunError(f"{path} has no run.json, so it is not a run directory. {advice}")
    if not isinstance(written, dict):
        raise RunError(f"{path / 'run.json'} is not that of a run. Give the run directory of a training job.")
    if written.get("job") == "learn":
        raise RunError(
            f"{path} is a night of make learn, which evaluates its own run: {path / 'evaluation'} has the results, "
            f"{path / 'train'} the run."
        )
    if not isinstance(written.get("settings"), dict):
        raise RunError(f"{path / 'run.json'} has no settings. Give the run directory of a training job.")
    names = {item.name for item in dataclasses.fields(TrainedRun)} - {"path"}
    facts = {name: value for name, value in written.items() if name in names}
    facts["settings"] = under_present_names(facts["settings"])
    # Older runs did not record the job; their command still names its module.
    facts.setdefault("job", Path((written.get("command") or [""])[0]).stem.replace("_", "-"))
    return TrainedRun(path, **facts)


def fill(settings: EvalSettings, job: "Job") -> EvalSettings:
    """Return the settings with the run's recorded values for everything that the user did not set.

    Of several runs these are the last one's, but the baseline is the model that the first one started from.
    """
    paths = named_runs(settings) or [path for path in [newest_run(settings.scratch)] if path]
    if not paths:
        return _replaced(settings, run_id="eval")
    path, several = paths[-1], len(paths) > 1
    run = read_run(path)
    recorded: dict[str, Any] = {name: run.settings.get(name) for name in SHARED}
    recorded |= {"style_file": run.style_file, "baseline": read_run(paths[0]).model or BASELINE}
    if run.job == job.name.replace("eval", "train-online", 1):
        val_jsonl = run.settings.get("val_jsonl")
        recorded["val_jsonl"] = val_jsonl and str(run.located(val_jsonl))
    if run.is_offline:
        recorded["val_jsonl"] = _offline_prompts(run)
        recorded["max_prompt_tokens"] = run.settings.get("max_context_tokens")
    recorded["val_jsonl"] = Path(recorded["val_jsonl"]) if recorded.get("val_jsonl") else None
    values = {name: value for name, value in recorded.items() if value is not None and _is_default(settings, name)}
    values |= {"run_dir": path} if settings.run_dir is None else {}
    values |= {"run_id": "eval"} if settings.run_id is None else {}
    if settings.ckpts is None and not several and (steps := default_steps(list(_unwarned(run)))):
        values["ckpts"] = " ".join(map(str, steps))
    if settings.output_dir is None:
        values["output_dir"] = path / "eval" / (settings.run_id or ("forgetting" if several else ""))
    return _on_this_machine(_replaced(settings, **values))


def _on_this_machine(settings: EvalSettings) -> EvalSettings:
    """Return the settings with a process for each GPU, if the default is more: the figures stay the same."""
    if settings.tiny or settings.accelerate_config or settings.nnodes > 1 or not _is_default(settings, "world_size"):
        return settings
    gpus = max(1, len(visible_gpus()))
    return settings.derived(MACHINE, world_size=gpus) if gpus < settings.world_size else settings


def _offline_prompts(run: TrainedRun) -> str | None:
    """Return the interactions whose prompts an evaluation of an offline run answers: VAL_JSONL, else TRAIN_JSONL."""
    files = (run.settings.get("val_jsonl"), run.settings.get("train_jsonl"))
    return next((str(run.located(file)) for file in files if file and run.located(file).is_file()), None)


def evaluated_run(settings: EvalSettings) -> TrainedRun:
    """Return the last run in RUN_DIR. Raises SettingError if none is set, RunError if it is not a run directory."""
    if not settings.run_dirs:
        raise SettingError(no_run(settings))
    return read_run(settings.run_dirs[-1])


def baseline_model(settings: EvalSettings, run: TrainedRun) -> str:
    """Return the model that the checkpoints are compared with: by default the one that the run started from."""
    return settings.baseline or run.model or BASELINE


def prompts_file(settings: EvalSettings) -> Path:
    """Return the file of validation prompts. Raises SettingError if neither the user nor the run gave one."""
    if settings.val_jsonl is None:
        raise SettingError("DATA_PATH is not set, and the run recorded no file of validation prompts. Set DATA_PATH.")
    return settings.val_jsonl


def differences(settings: EvalSettings, run: TrainedRun, job: "Job") -> Iterator[str]:
    """Yield a message for each way in which the evaluation differs from the training."""
    trained = {**run.settings, "style_file": run.style_file, "baseline": run.model}
    for name in (*SHARED, "baseline"):
        before, now = trained.get(name), getattr(settings, name)
        if before is not None and str(before) != str(now) and not (name == "style_file" and _same_styles(before, now)):
            verb = "started from" if name == "baseline" else "was trained with"
            yield f"{name.upper()}={now}, but the run {verb} {before}"
    if settings_module.source(settings, "run_dir") == RUN:
        yield f"RUN_DIR is not given, so this is the newest run: {run.path}"
    own_prompts = settings_module.source(settings, "val_jsonl") == RUN
    if run.job and not own_prompts and not run.job.endswith(job.name.removeprefix("eval-")):
        yield f"{job.name} on a run of {run.job}: prompts of another job, with the system prompt of the run"
    if "ckpts" not in settings_module.given(settings) and (warned := run.warned_steps() & set(run.checkpoints())):
        steps = ", ".join(map(str, sorted(warned)))
        yield f"the guard stopped the run and had warned of checkpoint {steps}: left out unless CKPTS names it"
    if run.model is None:
        yield f"the run did not record the model it started from: the baseline is {settings.baseline}"


def _same_styles(before: Path, now: Path | None) -> bool:
    """Whether two files hold the same styles; not if the run's file is gone."""
    return before.is_file() and own_styles(before) == own_styles(now)


def chosen_checkpoints(settings: EvalSettings, run: TrainedRun) -> dict[int, Path]:
    """Return step -> folder of the checkpoints that CKPTS asks for.

    If CKPTS is not given, these are those of `default_steps`. Those that the guard warned of, before it stopped the
    run, have to be asked for. Raises RunError if none is left, or if the run lacks one that CKPTS names.
    """
    complete = run.checkpoints()
    if "ckpts" not in settings_module.given(settings):
        good = _unwarned(run)
        if complete and not good:
            raise RunError(
                f"the guard stopped {run.path} and had warned of every checkpoint: none is good to use. To evaluate "
                f"them all the same, set CKPTS={','.join(map(str, complete))}, or fewer."
            )
        complete = good
    if settings.ckpts is None:
        steps = default_steps(list(complete))
    else:
        steps = list(complete) if settings.steps is None else settings.steps
    if not complete:
        raise RunError(f"{run.path} has no complete checkpoint. {without_checkpoint(run)}")
    if missing := [str(step) for step in steps if step not in complete]:
        existing = f"It has those of step {', '.join(map(str, complete))}; set CKPTS to some of these."
        raise RunError(f"{run.path} has no complete checkpoint of step {', '.join(missing)}. {existing}")
    return {step: complete[step] for step in steps}


def default_steps(steps: Sequence[int]) -> list[int]:
    """Return which of a run's checkpoints are evaluated unless CKPTS says otherwise: at most five, the last one too.

    They are evenly spread. Of a run that is as long as the published ones, they are the published ones.
    """
    if set(_PUBLISHED) <= set(steps) and steps[-1] < _PUBLISHED[-1] + _PUBLISHED[0]:
        return list(_PUBLISHED)
    number = min(_MOST, len(steps))
    return [steps[math.ceil(len(steps) * (index + 1) / number) - 1] for index in range(number)]


def _unwarned(run: TrainedRun) -> dict[int, Path]:
    """Return the run's complete checkpoints without those that the guard warned of before it stopped the run."""
    warned = run.warned_steps()
    return {step: folder for step, folder in run.checkpoints().items() if step not in warned}


def without_checkpoint(run: TrainedRun) -> str:
    """Return why a run may have no checkpoint, and what to do about it, with the command that resumes it."""
    summary = RunDirectory(run.path).read_json("summary.json") or {}
    if summary.get("stopped_by_guard"):
        return (
            "The guard stopped it before its first one. Train anew with another RUN_ID and a lower LR, or with "
            "GUARD=warn and a smaller SAVE_STEPS."
        )
    if summary.get("finished"):
        return "It is finished, and they are no longer in its folder. Train anew with another RUN_ID."
    every = run.settings.get("save_steps")
    why = "It ended before its first one" + (f", which SAVE_STEPS={every} writes at step {every}" if every else "")
    if run.given is None or not run.job:
        return f"{why}. Run its command again, which resumes it; or train with a smaller SAVE_STEPS and another RUN_ID."
    resume = command(run.job, *settings_module.as_words(run.given), output_dir=run.path)
    return f"{why}. Resume it with: {resume} (or train anew with a smaller SAVE_STEPS and another RUN_ID)."


def persona(settings: EvalSettings, run: TrainedRun) -> str | None:
    """Return the persona whose preferences the judges apply: the run's, unless the user gives a style.

    None if neither has one. Raises SettingError for a style that does not exist.
    """
    given = {"style", "style_file"} & set(settings_module.given(settings))
    if run.persona and not given:
        return run.persona
    return None if settings.style is None else persona_of(settings.style, settings.style_file)


def job_as_trained(job: "Job", run: TrainedRun) -> "Job":
    """Return the job with the system prompt and prompt suffix that the run recorded, if it did."""
    return dataclasses.replace(
        job,
        system_prompt=job.system_prompt if run.system_prompt is None else run.system_prompt,
        prompt_suffix=job.prompt_suffix if run.prompt_suffix is None else run.prompt_suffix,
    )


def _is_default(settings: EvalSettings, name: str) -> bool:
    return settings_module.source(settings, name) in (DEFAULT, JOB, TINY)


def _replaced(settings: EvalSettings, **values: Any) -> EvalSettings:
    return settings.derived(RUN, **values)
