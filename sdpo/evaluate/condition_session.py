"""The condition of an evaluation's models: what is needed for it, taken from the evaluation's session."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import psutil
import torch
from accelerate.utils import broadcast_object_list
from transformers.utils import cached_file

from sdpo.evaluate import trained_run
from sdpo.evaluate.answers import Answer, LocalAnswers, ServerAnswers
from sdpo.evaluate.condition import ConditionMeter, Subject, Taste, general_kinds
from sdpo.evaluate.evidence import Condition
from sdpo.evaluate.judges import reader
from sdpo.evaluate.models import EvaluatedModel, ModelCache
from sdpo.evaluate.prompts import EvaluationPrompt
from sdpo.evaluate.start_measures import StartMeasures
from sdpo.evaluate.store import Store
from sdpo.runtime.run_directory import RunDirectory
from sdpo.settings.inputs import read_template
from sdpo.text.hindsight import HINDSIGHT, HindsightTemplate

if TYPE_CHECKING:
    from accelerate import PartialState

    from sdpo.evaluate.trained_run import TrainedRun
    from sdpo.runtime.launch import Job
    from sdpo.settings import EvalSettings

STORE = "condition"  # the name of the store of everything that is measured
NO_GENERAL_PROMPTS = "this model's language has no general prompts, so its distance from the start is not measured"
_ROOM = 1.3  # the memory that a model needs, in sizes of its weights: it has to compute too


class Session(Protocol):
    """What an evaluation's session has of what is needed here."""

    settings: "EvalSettings"
    job: "Job"
    state: "PartialState"
    trained_run: "TrainedRun"
    base: str
    folder: RunDirectory
    model_cache: ModelCache
    source: LocalAnswers | ServerAnswers

    def weights_of(self, models: dict[str, EvaluatedModel]) -> dict[str, str]:
        """Return what each model's answers are stored under. Collective."""
        ...


def measure_condition(
    session: Session,
    prompts: Sequence[EvaluationPrompt],
    models: Mapping[str, EvaluatedModel],
    weights: Mapping[str, str],
    answers: Mapping[str, Sequence[Answer]],
) -> tuple[dict[str, Condition], list[str]]:
    """Return name -> condition of the evaluation's models, and lines that say what was not measured. Collective.

    Both are empty with CONDITION=0.
    """
    settings, run = session.settings, session.trained_run
    if not settings.condition:
        return {}, []
    oracle = reader(session.job, session.base, settings.style, settings.style_file)
    taste = Taste(trained_run.persona(settings, run), oracle)
    subjects = {name: Subject(model, weights[name], answers[name], taste) for name, model in models.items()}
    meter, notes = meter_of(session, EvaluatedModel("start", session.base))
    kinds = general_kinds(oracle)
    if not kinds:
        notes.append(NO_GENERAL_PROMPTS)
    conditions = meter.conditions(subjects, prompts, kinds, template_of(run))
    session.model_cache.clear()
    return conditions, notes


def meter_of(session: Session, start: EvaluatedModel) -> tuple[ConditionMeter, list[str]]:
    """Return what measures an evaluation's models by this start model, and a line if it cannot be loaded here."""
    settings, notes = session.settings, list[str]()
    store = Store(session.folder.path, STORE, session.state.process_index)
    session.state.wait_for_everyone()  # no process may write before all have read
    served = session.source if isinstance(session.source, ServerAnswers) else None
    measures = None
    if problem := None if served is None else _problem_of_main_process(session, start):
        notes.append(
            f"{start.source} is not loaded here, because {problem}: fluency, surprise, topic, leak and distance are "
            "not measured. Evaluate where it fits, without ANSWER_URL"
        )
    else:
        weights = session.weights_of({start.name: start})[start.name]
        measures = StartMeasures(
            start, weights, store, session.model_cache, session.state, settings.eval_batch_size, settings.seed
        )
    return ConditionMeter(measures, store, session.model_cache, settings.max_completion_tokens, served), notes


def template_of(run: "TrainedRun") -> HindsightTemplate:
    """Return the template by which the run showed follow-ups in hindsight."""
    name, file = run.settings.get("hindsight_template"), run.settings.get("hindsight_file")
    if name is None or (file and not Path(file).is_file()):
        return HINDSIGHT
    return read_template(name, Path(file) if file else None)


def _problem_of_main_process(session: Session, start: EvaluatedModel) -> str | None:
    """Return `_not_loadable` of the main process: each has its own GPU's memory, and what follows is collective."""
    holder = [_not_loadable(start, session.model_cache.dtype) if session.state.is_main_process else None]
    broadcast_object_list(holder)
    return holder[0]


def _not_loadable(model: EvaluatedModel, dtype: torch.dtype) -> str | None:
    """Return why a model that a server has should not be loaded here as well; None if it can be."""
    folder = Path(model.source).expanduser()
    if not folder.is_dir():
        with suppress(OSError):
            folder = Path(str(cached_file(model.source, "config.json", local_files_only=True))).parent
    files = [path for pattern in ("*.safetensors", "pytorch_model*.bin") for path in folder.glob(pattern)]
    size = sum(path.stat().st_size for path in files)
    if not size:
        return "its weights are not on this machine"
    # Published weights mostly have two bytes each.
    needed = _ROOM * size * (2 if dtype == torch.float32 else 1)
    free = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else psutil.virtual_memory().available
    if needed <= free:
        return None
    return f"it needs about {needed / 1e9:.0f} GB of memory and {free / 1e9:.0f} GB are free"
