"""The rows of online training: prompts as the policy gets them, and recorded interactions to replay."""

from pathlib import Path
from typing import TYPE_CHECKING

from sdpo.errors import SettingError
from sdpo.settings.inputs import made_with
from sdpo.text.prompts import Message
from sdpo.text.records import Prompt, Replay, read_prompts

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import OnlineSettings


def read_training_prompts(settings: "OnlineSettings", job: "Job") -> list[Prompt]:
    """Return the prompts of TRAIN_JSONL. Raises SettingError if it is not set, RecordError if it cannot be used."""
    return read_prompts(_required("TRAIN_JSONL", settings.train_jsonl), made_with(settings, "train_jsonl", job))


def read_validation_prompts(settings: "OnlineSettings", job: "Job") -> list[Prompt]:
    """Return the prompts of VAL_JSONL. Raises SettingError if it is not set, RecordError if it cannot be used."""
    return read_prompts(_required("VAL_JSONL", settings.val_jsonl), made_with(settings, "val_jsonl", job))


def training_prompts(rows: list[Prompt], job: "Job") -> list[dict]:
    """Return dataset rows with id and messages of each prompt, without the prompt suffix that the data file adds."""
    return [{"id": row.id, "prompt": messages_of(row.prompt.removesuffix(job.prompt_suffix), job)} for row in rows]


def replay_rows(rows: list[Replay], job: "Job") -> list[dict]:
    """Return dataset rows with the prompt's messages, the completion, the follow-up, and what was said of both."""
    return [
        {
            "prompt": messages_of(row.prompt, job),
            "completion": row.completion,
            "follow_up": row.follow_up,
            "satisfied": row.satisfied,
            "finished": row.finished,
        }
        for row in rows
    ]


def messages_of(text: str, job: "Job") -> list[Message]:
    """Return the messages that the policy gets for a user's text: the job's system prompt, if any, and the text."""
    system = [{"role": "system", "content": job.system_prompt}] if job.system_prompt else []
    return [*system, {"role": "user", "content": text}]


def _required(name: str, path: Path | None) -> Path:
    if path is None:
        raise SettingError(f"{name} is not set. Name a file of prompts.")
    return path
