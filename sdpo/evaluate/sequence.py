"""Several runs after each other: the model after every one of them, and the tastes that they were trained for.

Importing this is cheap.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdpo import settings as settings_module
from sdpo.errors import RunError, SettingError
from sdpo.evaluate.judges import ORACLE, check_judge, judge_kind, reader
from sdpo.evaluate.prompts import evaluation_prompts, judged_persona
from sdpo.evaluate.trained_run import TrainedRun, evaluated_run, read_run, without_checkpoint

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import EvalSettings
    from sdpo.users.oracle import Oracle

START = "start"


@dataclass(frozen=True)
class Stage:
    """A run and the checkpoint that it ended with, on `base` if that is an adapter."""

    name: str
    run: TrainedRun
    step: int
    checkpoint: Path
    base: str


@dataclass(frozen=True)
class Column:
    """The taste of one or more runs: its name, the user's words, and what reads it, None where only a judge can.

    `learned_after` is the name of the first of these runs' stages.
    """

    name: str
    persona: str
    oracle: "Oracle | None"
    learned_after: str


def stages(settings: "EvalSettings") -> list[Stage]:
    """Return the runs in RUN_DIR, each with its last complete checkpoint that the guard had not warned of.

    Raises RunError for a folder that is not a run directory, and for a run without such a checkpoint.
    """
    runs = [read_run(path) for path in settings.run_dirs]
    found: list[Stage] = []
    for name, run in zip(_names(settings.run_dirs), runs, strict=True):
        complete = run.checkpoints()
        good = {step: folder for step, folder in complete.items() if step not in run.warned_steps()}
        if not good:
            if not complete:
                raise RunError(
                    f"{run.path} cannot be one of several runs: it has no complete checkpoint. "
                    f"{without_checkpoint(run)} Or leave it out of RUN_DIR."
                )
            raise RunError(
                f"{run.path} cannot be one of several runs: the guard had warned of every checkpoint. Leave it out of "
                "RUN_DIR."
            )
        step = max(good)
        found.append(Stage(f"after {name}", run, step, good[step], run.model or settings.baseline or ""))
    return found


def columns(settings: "EvalSettings", job: "Job", found: Sequence[Stage]) -> tuple[list[Column], list[str]]:
    """Return the tastes of the runs in their order, each once, and a line for every run that has none.

    Tastes of the same name, such as a style that was edited between two runs, have their runs' names too.
    """
    tastes: dict[tuple[str, str], Column] = {}
    notes: list[str] = []
    for stage in found:
        run = stage.run
        style, persona = run.settings.get("style"), run.persona
        if persona is None:
            notes.append(f"{run.path} was not trained for a single style: it has no column")
            continue
        oracle = reader(job, settings.baseline or "", style, run.style_file)
        name = style or _run_name(stage.name)
        tastes.setdefault((name, persona), Column(name, persona, oracle, stage.name))
    names = [name for name, _ in tastes]
    return [
        column
        if names.count(column.name) == 1
        else replace(column, name=f"{column.name} ({_run_name(column.learned_after)})")
        for column in tastes.values()
    ], notes


def _run_name(stage: str) -> str:
    return stage.removeprefix("after ")


def judge_of_tastes(settings: "EvalSettings") -> str | None:
    """Return the judge of the tastes that nothing reads: one that the user has named, as every verdict costs."""
    if "judge_model" not in settings_module.given(settings):
        return None
    return next((judge for judge in settings.judges if judge_kind(judge, settings) != ORACLE), None)


def check_sequence(settings: "EvalSettings", job: "Job", check_path: Callable[[str, str], None]) -> list[str]:
    """Check everything that several runs need and that needs no model, and return the judges that are asked.

    Raises SdpoError.
    """
    if settings.answer_url:
        raise SettingError(
            "ANSWER_URL cannot be used with several runs: their models are loaded here. Leave it out, or give one run."
        )
    for name, instead in (("ckpts", "the last good checkpoint of each is compared"), ("benchmarks", "none is run")):
        if getattr(settings, name) and name in settings_module.given(settings):
            raise SettingError(
                f"{name.upper()} cannot be used with several runs: {instead}. Leave it out, or give one run."
            )
    found = stages(settings)
    tastes, notes = columns(settings, job, found)
    if not tastes:
        raise SettingError("none of the runs in RUN_DIR was trained for a single style: there is nothing to compare.")
    run = evaluated_run(settings)
    judged_persona(settings, run)
    evaluation_prompts(settings, run, job)
    judge = judge_of_tastes(settings)
    asked = [judge] if judge is not None and any(column.oracle is None for column in tastes) else []
    for one in asked:
        check_judge(one, settings, job, check_path)
    check_path("baseline", settings.baseline or "")
    for before, stage in zip([None, *found], found, strict=False):
        origin = Path(stage.base).resolve()
        if before is not None and before.run.path.resolve() not in origin.parents:
            notes.append(f"{stage.run.path} started from {stage.base}, not from a result of {before.run.path}")
    for note in notes:
        print(f"note: {note}", flush=True)
    return asked


def _names(paths: Sequence[Path]) -> list[str]:
    """Return the folders' names; their paths if two have the same name. A folder that is given twice is numbered."""
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return [name if names.count(name) == 1 else f"{name} ({names[:index].count(name) + 1})"
            for index, name in enumerate(names)]  # fmt: skip
