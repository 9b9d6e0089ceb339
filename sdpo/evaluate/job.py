"""The evaluation job: what it checks before anything is loaded, and how it runs.

Importing this is cheap; torch and its company are imported when the evaluation starts.
"""

from typing import TYPE_CHECKING

from sdpo.errors import SettingError
from sdpo.evaluate.judges import check_judges, judge_kind
from sdpo.evaluate.trained_run import chosen_checkpoints, differences, persona, read_run
from sdpo.settings import EvalSettings
from sdpo.text.records import read_prompts

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job


def check(settings: EvalSettings, job: "Job") -> None:
    """Check whatever can be checked without loading a model, and say what differs from the run.

    Raises SdpoError on the first fault.
    """
    from sdpo.settings.inputs import check_model_path

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
    check_judges(settings, job.load_oracle(), check_model_path)
    _check_servers(settings)
    for words in differences(settings, run, job):
        print(f"note: {words}", flush=True)


def run(settings: EvalSettings, job: "Job") -> int:
    """Evaluate, and return the exit code: 1 where a checkpoint was missing."""
    from sdpo.evaluate.session import EvalSession

    session = EvalSession(settings, job)
    try:
        return session.run()
    finally:
        session.folder.unlock()


def _check_servers(settings: EvalSettings) -> None:
    from sdpo.llm.server import check_health

    if settings.answer_url:
        check_health(settings.answer_url, setting="ANSWER_URL")
    if settings.judge_url and any(judge_kind(judge, settings) == "server" for judge in settings.judges):
        check_health(settings.judge_url, setting="JUDGE_URL")
