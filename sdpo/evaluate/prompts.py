"""The prompts of an evaluation: a file of prompts, or one of interactions, each with the follow-up that it got.

Importing this is cheap.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdpo.errors import RecordError, SettingError, command
from sdpo.evaluate.trained_run import TrainedRun, job_as_trained, persona, prompts_file
from sdpo.text.prompts import FOLLOW_UP_PERSONA, Message
from sdpo.text.records import Interaction, read_interactions, read_prompts
from sdpo.text.split import is_held_out
from sdpo.train.offline.mixture import mix_of
from sdpo.train.online.data import training_prompts

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import EvalSettings

_MAKE_INTERACTIONS = command("prep-logs")
OWN_FOLLOW_UPS = "the user who wrote the logged follow-up to each prompt"


@dataclass(frozen=True)
class EvaluationPrompt:
    """A validation prompt: its id, the user's text, the chat messages sent to a model, and whose taste is judged by.

    `conversation` is the id of the conversation that it is a turn of; a prompt of no conversation is one of its own.
    """

    id: str
    text: str
    messages: list[Message]
    persona: str = ""
    conversation: str = ""


def holds_interactions(path: Path) -> bool:
    """Return whether the first row of a JSONL file is an interaction and not a prompt; False if it cannot be read."""
    try:
        with path.open(encoding="utf-8-sig") as lines:
            row = json.loads(next((line for line in lines if line.strip()), "null"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(row, dict) and isinstance(row.get("prompt"), list)


def judged_persona(settings: "EvalSettings", run: TrainedRun) -> str | None:
    """Return the persona that all answers are judged by; None if it is each prompt's own follow-up.

    Raises SettingError if there is neither a style nor a file with follow-ups.
    """
    of_all = persona(settings, run)
    if of_all is None and not (settings.val_jsonl and holds_interactions(settings.val_jsonl)):
        raise SettingError(
            "STYLE is not set, and the run was not trained on a single style. Set the one to judge by, or set "
            "DATA_PATH to a file of interactions, whose follow-ups are then what answers are judged by."
        )
    return of_all


def evaluation_prompts(settings: "EvalSettings", run: TrainedRun, job: "Job") -> list[EvaluationPrompt]:
    """Return the prompts of the evaluation's file, in its order.

    Of the interactions that a run was trained on, only the held-out ones are used, if it held some out. Raises
    SettingError and RecordError if the file cannot be used.
    """
    path, shared = prompts_file(settings), persona(settings, run)
    if not holds_interactions(path):
        make_with = _MAKE_INTERACTIONS if run.is_offline else job.data_command
        rows = training_prompts(read_prompts(path, make_with), job_as_trained(job, run))
        return [EvaluationPrompt(row["id"], row["prompt"][-1]["content"], row["prompt"], shared or "") for row in rows]
    interactions = list(read_interactions(path, _MAKE_INTERACTIONS))
    held_out = _held_out(interactions, run) if _is_training_file(path, run) else []
    return [
        EvaluationPrompt(
            row.id,
            row.prompt[-1]["content"],
            row.prompt,
            shared or FOLLOW_UP_PERSONA.format(follow_up=row.user_response),
            row.conversation_id,
        )
        for row in held_out or interactions
    ]


def conversations_of(used: Sequence[EvaluationPrompt]) -> list[str]:
    """Return the conversation of each prompt: turns of one are answered alike, so they are no cases of their own."""
    return [prompt.conversation or f"prompt {number}" for number, prompt in enumerate(used)]


def conversation(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    """Return the turns of a prompt, role and content, without system messages: what makes it the same prompt."""
    return tuple((one["role"], one["content"]) for one in messages if one["role"] != "system")


def trained_conversations(run: TrainedRun, job: "Job") -> set[tuple[tuple[str, str], ...]] | None:
    """Return the `conversation` of each row that the run was trained on; None if a file of them cannot be read."""
    suffix = job_as_trained(job, run).prompt_suffix
    found: set[tuple[tuple[str, str], ...]] = set()
    for path in _training_files(run):
        try:
            if holds_interactions(path):
                found |= {conversation(row.prompt) for row in _trained(path, run)}
            else:
                rows = read_prompts(path, job.data_command)
                found |= {(("user", row.prompt.removesuffix(suffix)),) for row in rows}
        except RecordError:
            return None
    return found


def _trained(path: Path, run: TrainedRun) -> Iterator[Interaction]:
    share = run.settings.get("holdout") or 0.0
    return (row for row in read_interactions(path, _MAKE_INTERACTIONS) if not is_held_out(row.conversation_id, share))


def _held_out(interactions: list[Interaction], run: TrainedRun) -> list[Interaction]:
    share = run.settings.get("holdout") or 0.0
    return [row for row in interactions if is_held_out(row.conversation_id, share)]


def _training_files(run: TrainedRun) -> list[Path]:
    """Return the files that the run was trained on: TRAIN_JSONL, and those of MIX."""
    recorded = run.settings.get("train_jsonl")
    return [run.located(file) for file in ([recorded] if recorded else []) + [*mix_of(run.settings.get("mix"))]]


def _is_training_file(path: Path, run: TrainedRun) -> bool:
    return path.resolve() in [file.resolve() for file in _training_files(run)]
