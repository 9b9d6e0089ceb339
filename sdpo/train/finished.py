"""What is done with a run that has finished: merging, export and upload, which would have acted at its training's end.

A training job whose RUN_ID names a finished run, and that is given MERGE_ADAPTER, EXPORT or PUSH_TO_HUB, becomes this
one. Importing this is cheap: torch is imported when a model is merged.
"""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpo import settings as settings_module
from sdpo.errors import RunError, SettingError
from sdpo.runtime import ending
from sdpo.runtime.checkpoint_files import WEIGHTS, damage
from sdpo.runtime.commands import new_run_command
from sdpo.runtime.evaluation import next_evaluation
from sdpo.runtime.resuming import changed_settings, completed, not_applied
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings import RUN, given_by_user, settings_of
from sdpo.settings.inputs import check_model
from sdpo.train.export import NOT_EXPORTED
from sdpo.train.job import check_hub, check_publishing, note_missing_converter

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import TrainingSettings

# Of this command, not of the run: what to do now, and where the run is.
_OF_THIS_COMMAND = {"merge_adapter", "push_to_hub", "hub_public", "export", "llama_cpp"}
_OF_THIS_COMMAND |= {"run_id", "scratch", "output_dir", "dry_run", "resume", "node_rank"}


def instead_of_training(settings: "TrainingSettings", job: "Job") -> "Job":
    """Return the job that carries out what is asked of a finished run; `job` if the run is new, or nothing is asked."""
    folder = job.run_directory(settings)
    if folder is None or settings.resume != "auto" or not wanted(settings):
        return job
    run = RunDirectory(folder)
    if not run.finished or run.read_json("run.json") is None:
        return job
    here = "sdpo.train.finished"
    return dataclasses.replace(
        job, become=None, fill=f"{here}:fill", check=f"{here}:check", run=f"{here}:run", plan=None, report=None,
        needs_simulator=False,
    )  # fmt: skip


def wanted(settings: "TrainingSettings") -> list[str]:
    """Return which of MERGE_ADAPTER, EXPORT and PUSH_TO_HUB are set."""
    asked = {"MERGE_ADAPTER": settings.merge_adapter, "EXPORT": settings.export != "none"}
    return [name for name, is_set in (asked | {"PUSH_TO_HUB": settings.push_to_hub}).items() if is_set]


def fill(settings: "TrainingSettings", job: "Job") -> "TrainingSettings":
    """Return the settings with those of the run for all that the user did not give, and one process."""
    recorded = _recorded(RunDirectory(_folder(settings, job)))
    values: dict[str, Any] = {}
    for name, declared in settings_of(type(settings)).items():
        own = name in _OF_THIS_COMMAND or declared.secret or given_by_user(settings_module.source(settings, name))
        if name in recorded and not own:
            value = recorded[name]
            values[name] = Path(value) if declared.kind is Path and value is not None else value
    return settings.derived(RUN, **values | {"world_size": 1, "nnodes": 1, "accelerate_config": None})


def check(settings: "TrainingSettings", job: "Job") -> None:
    """Check all that can be checked without loading a model; a dry run prints what would be done. Raises SdpoError."""
    run = RunDirectory(settings.run_directory_path)
    run.check_free()
    run.check_job(job.name)
    names, before, now = _listed(wanted(settings)), _recorded(run), settings_module.redacted(settings)
    if changed := changed_settings(before, now):
        raise RunError(
            f"the run in {run.path} is finished.{not_applied(before, now, changed)} Leave that out to carry out "
            f"{names} on this run. For a new run: {new_run_command(settings, job.name)}"
        )
    checkpoint = checkpoint_to_use(run, names)
    if settings.merge_adapter and settings.adapter == "none":
        raise SettingError(
            f"MERGE_ADAPTER: the run in {run.path} trained all weights, without an adapter. Leave it out."
        )
    check_publishing(settings)
    if settings.adapter != "none" and (settings.merge_adapter or settings.export != "none"):
        check_model(settings, "model", settings.model)
    check_hub(settings)
    note_missing_converter(settings, checkpoint.name)
    if settings.dry_run:
        would = f"{names} would be carried out on {checkpoint.name}, and nothing trained"
        print(f"note: the run in {run.path} is finished: {would}.\n", flush=True)


def checkpoint_to_use(run: RunDirectory, names: str) -> Path:
    """Return the checkpoint of a finished run that `names` act on: the last one, after a stop by the guard the best.

    Raises RunError if there is none, or if its weights are no longer as they were written.
    """
    summary = run.read_json("summary.json") or {}
    best = summary.get("best_checkpoint")
    if "stopped_by_guard" in summary and not best:
        raise RunError(
            f"the guard stopped the run in {run.path} before any good checkpoint, so there is none for {names}."
        )
    checkpoint = run.path / best if best else run.last_checkpoint()
    if checkpoint is None or not checkpoint.is_dir():
        raise RunError(f"{run.path} has no {best or 'checkpoint'} any more, so there is none for {names}.")
    if fault := damage(checkpoint, WEIGHTS):
        raise RunError(f"{checkpoint} is damaged, so it cannot be used for {names}: {fault}.")
    return checkpoint


def run(settings: "TrainingSettings", job: "Job") -> int:
    """Merge, export and upload as the settings ask. Raises as `finish_model` does, RunError if the run is in use."""
    if settings.node_rank or os.environ.get("RANK", "0") != "0":
        return 0  # the first process does it alone
    from sdpo.models.pretrained import silence_libraries
    from sdpo.train.publish import finish_model

    directory = RunDirectory(settings.run_directory_path)
    directory.lock()
    silence_libraries()
    checkpoint = checkpoint_to_use(directory, _listed(wanted(settings)))
    done = finish_model(settings, job.name, directory, checkpoint.name, stopped=False)
    sentence = f"{checkpoint.name} of the finished run is {_listed(done)}; nothing was trained."
    ending.say(sentence, {}, *next_evaluation(directory))
    if NOT_EXPORTED in done:
        raise RunError(
            "EXPORT=gguf: no GGUF was written. Run the commands above, or give llama.cpp's folder as LLAMA_CPP."
        )
    return 0


def _recorded(run: RunDirectory) -> dict[str, Any]:
    return completed((run.read_json("run.json") or {}).get("settings") or {})


def _folder(settings: "TrainingSettings", job: "Job") -> Path:
    folder = job.run_directory(settings)
    assert folder is not None, "a finished run has a name"
    return folder


def _listed(done: list[str]) -> str:
    """Return phrases as a list in words."""
    return " and ".join([", ".join(done[:-1]), done[-1]] if len(done) > 1 else done)
