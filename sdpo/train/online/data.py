"""The rows of online training: prompts as the policy is sent them, and recorded exchanges to replay."""

from typing import TYPE_CHECKING

from sdpo.text.records import Prompt, Replay

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job


def training_prompts(rows: list[Prompt], job: "Job") -> list[dict]:
    """Return dataset rows: id and the messages of the prompt, the data file's suffix taken off again."""
    return [{"id": row.id, "prompt": messages_of(row.prompt.removesuffix(job.prompt_suffix), job)} for row in rows]


def replay_rows(rows: list[Replay], job: "Job") -> list[dict]:
    """Return dataset rows with the answer and the follow-up beside the messages of the prompt."""
    return [
        {"prompt": messages_of(row.prompt, job), "completion": row.completion, "follow_up": row.follow_up}
        for row in rows
    ]


def messages_of(text: str, job: "Job") -> list[dict[str, str]]:
    """Return the messages that the policy is sent for a user's text."""
    system = [{"role": "system", "content": job.system_prompt}] if job.system_prompt else []
    return [*system, {"role": "user", "content": text}]
