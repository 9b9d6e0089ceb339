"""The evaluation job: the checks before any model is loaded, and the run itself.

Importing this is cheap; torch and transformers are imported when the evaluation starts.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from sdpo.errors import SdpoError, SettingError, one_line
from sdpo.evaluate.benchmark_tasks import check_tasks
from sdpo.evaluate.fingerprints import base_of
from sdpo.evaluate.judges import check_judge, judge_kind
from sdpo.evaluate.prompts import evaluation_prompts, judged_persona
from sdpo.evaluate.run_folders import no_run
from sdpo.evaluate.sequence import check_sequence
from sdpo.evaluate.trained_run import baseline_model, chosen_checkpoints, differences, evaluated_run
from sdpo.llm import check_claude
from sdpo.settings import EvalSettings
from sdpo.settings.inputs import check_model

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job

_SERVED_AS = (
    "Serve each checkpoint under the name of its folder and the baseline under the value of BASELINE, or choose other "
    "CKPTS or another BASELINE."
)


def check(settings: EvalSettings, job: "Job") -> None:
    """Check everything that needs no model, and print where the settings differ from those of the training run.

    Raises SdpoError; if several things are missing or wrong, one SettingError that names them all.
    """
    if settings.run_dir is None and settings.dry_run:
        print(f"note: {no_run(settings)}\n")
        return
    if len(settings.run_dirs) > 1:
        _check_servers(settings, check_sequence(settings, job, partial(check_model, settings)))
        return
    run = evaluated_run(settings)
    errors = list(_errors(_checks(settings, job)).values())
    if len(errors) == 1:
        raise errors[0]
    if errors:
        texts = " ".join(f"({number}) {one_line(error)}" for number, error in enumerate(errors, start=1))
        raise SettingError(f"{len(errors)} things are missing or wrong: {texts}")
    for difference in differences(settings, run, job):
        print(f"note: {difference}", flush=True)
    if settings.dry_run:
        names = ", ".join(f"checkpoint-{step}" for step in chosen_checkpoints(settings, run))
        print(f"{names} of {run.path} would be compared with {baseline_model(settings, run)}.\n", flush=True)


def _checks(settings: EvalSettings, job: "Job") -> Iterator[Callable[[], object]]:
    """Yield the checks, each independent of the others; those that may need the network come last."""
    run = evaluated_run(settings)
    yield lambda: chosen_checkpoints(settings, run)
    yield lambda: judged_persona(settings, run)
    yield lambda: evaluation_prompts(settings, run, job)
    yield lambda: check_tasks(settings)
    for judge in settings.judges:
        yield partial(check_judge, judge, settings, job, partial(check_model, settings))
    baseline = baseline_model(settings, run)
    yield lambda: check_model(settings, "baseline", base_of(baseline) or baseline)
    yield lambda: _check_servers(settings, settings.judges)


def _errors(checks: Iterator[Callable[[], object]]) -> dict[str, SdpoError]:
    """Run all checks and return the errors that they raise by their texts, in order."""
    errors: dict[str, SdpoError] = {}
    for run_check in checks:
        try:
            run_check()
        except SdpoError as error:
            errors.setdefault(str(error), error)
    return errors


def run(settings: EvalSettings, job: "Job") -> int:
    """Evaluate, and return the exit code: 7 if no checkpoint is released, else 0."""
    from sdpo.evaluate.forgetting import ForgettingSession
    from sdpo.evaluate.session import EvalSession

    several = len(settings.run_dirs) > 1
    session = ForgettingSession(settings, job) if several else EvalSession(settings, job)
    try:
        return session.run()
    finally:
        session.folder.unlock()


def _check_servers(settings: EvalSettings, judges: Sequence[str]) -> None:
    """Raise ServerError if a server, of answers or of these judges, does not respond, lacks a model or refuses its key.

    One that is loading has the time that a reply may take. A dry run notes one that does not respond.
    """
    from sdpo.llm.health import check_health, noted_if_dry

    wait = 0 if settings.dry_run else settings.judge_timeout

    def check(*arguments: str, **options: Any) -> None:
        with noted_if_dry(settings.dry_run):
            check_health(*arguments, wait=wait, wait_setting="JUDGE_TIMEOUT", **options)

    if settings.answer_url:
        run = evaluated_run(settings)
        folders = chosen_checkpoints(settings, run).values()
        check(
            settings.answer_url, baseline_model(settings, run), *(folder.name for folder in folders),
            setting="ANSWER_URL", model_setting="BASELINE", advice=_SERVED_AS, api_key=settings.answer_api_key,
        )  # fmt: skip
    kinds = {judge: judge_kind(judge, settings) for judge in judges}
    for judge in (judge for judge, kind in kinds.items() if kind == "claude"):
        check_claude(judge, settings.anthropic_api_key, "JUDGE_MODEL", settings.dry_run)
    if settings.judge_url and (served := [judge for judge, kind in kinds.items() if kind == "server"]):
        key = settings.judge_api_key
        # A wrong name would otherwise be noticed when all answers are there. A dry run makes no server load a model.
        ask = 0 if settings.dry_run else settings.judge_timeout
        check(settings.judge_url, *served, setting="JUDGE_URL", model_setting="JUDGE_MODEL", api_key=key, ask=ask)
    elif settings.judge_url:
        print("note: JUDGE_URL is not used: no judge that is asked is a server's.", flush=True)
