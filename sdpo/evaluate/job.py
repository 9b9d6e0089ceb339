"""The evaluation job: the checks before any model is loaded, and the run itself.

Importing this is cheap; torch and transformers are imported when the evaluation starts.
"""

from functools import partial
from typing import TYPE_CHECKING

from sdpo.evaluate.judges import check_judges, judge_kind
from sdpo.evaluate.trained_run import (
    baseline_model,
    chosen_checkpoints,
    differences,
    evaluated_run,
    no_run,
    persona,
    prompts_file,
)
from sdpo.settings import EvalSettings
from sdpo.text.records import read_prompts

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job


def check(settings: EvalSettings, job: "Job") -> None:
    """Check everything that needs no model, and print where the settings differ from those of the training run.

    Raises SdpoError on the first problem.
    """
    from sdpo.settings.inputs import check_model

    if settings.run_dir is None and settings.dry_run:
        print(f"note: {no_run(settings)}\n")
        return
    run = evaluated_run(settings)
    persona(settings, run)
    chosen_checkpoints(settings, run)
    read_prompts(prompts_file(settings), job.data_command)
    check_model(settings, "baseline", baseline_model(settings, run))
    check_judges(settings, job, partial(check_model, settings))
    _check_servers(settings)
    for difference in differences(settings, run, job):
        print(f"note: {difference}", flush=True)


def run(settings: EvalSettings, job: "Job") -> int:
    """Evaluate, and return the exit code: 1 if a checkpoint was missing, else 0."""
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
