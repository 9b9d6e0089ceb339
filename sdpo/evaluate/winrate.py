"""The evaluation job: what it checks before anything is loaded, and how it runs.

Importing this is cheap; torch and its company are imported when the evaluation starts.
"""

from typing import TYPE_CHECKING

from sdpo import settings as settings_module
from sdpo.errors import RecordError, SettingError
from sdpo.evaluate.judges import check_judges, kind_of
from sdpo.evaluate.trained import TrainedRun, chosen_checkpoints, differences, read_run
from sdpo.records import read_prompts
from sdpo.settings import EvalSettings
from sdpo.simulator import persona_of

if TYPE_CHECKING:
    from sdpo.launch import Job


def check(settings: EvalSettings, job: "Job") -> None:
    """Check whatever can be checked without loading a model, and say what differs from the run.

    Raises SdpoError on the first fault.
    """
    from sdpo.inputs import check_model_path

    if settings.run_dir is None:
        words = f"RUN_DIR is not set and there is no run in {settings.scratch}. make demo makes a tiny one."
        if not settings.dry_run:
            raise SettingError(words)
        print(f"note: {words}\n")
        return
    run = read_run(settings.run_dir)
    persona(settings, run)
    chosen_checkpoints(settings, run)
    if settings.val_jsonl is None:
        raise SettingError("DATA_PATH is not set, and the run names no validation prompts. Give their file.")
    read_prompts(settings.val_jsonl, job.data_command)
    check_model_path("baseline", settings.baseline)
    check_judges(settings, check_model_path)
    _check_servers(settings)
    for words in differences(settings, run, job):
        print(f"note: {words}", flush=True)


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
    from pathlib import Path

    path = run.settings.get("train_jsonl")
    if not path or not Path(path).exists():
        return set()
    try:
        return {row.prompt for row in read_prompts(Path(path), job.data_command)}
    except RecordError:
        return set()  # conversations, for one


def run(settings: EvalSettings, job: "Job") -> int:
    """Evaluate, and return the exit code: 1 where a checkpoint was missing."""
    from sdpo.evaluate.session import EvalSession

    session = EvalSession(settings, job)
    try:
        return session.run()
    finally:
        session.folder.unlock()


def _check_servers(settings: EvalSettings) -> None:
    from sdpo.server import check_health

    if settings.answer_url:
        check_health(settings.answer_url, setting="ANSWER_URL")
    if settings.judge_url and any(kind_of(judge, settings) == "server" for judge in settings.judges):
        check_health(settings.judge_url, setting="JUDGE_URL")
