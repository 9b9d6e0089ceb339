"""The online training job: what it checks before anything is loaded, and how it runs.

Importing this is cheap; torch and its company are imported when the run starts.
"""

from typing import TYPE_CHECKING

from sdpo.records import Prompt, read_prompts
from sdpo.train.job import check_training, run_session
from sdpo.train.user import check_user

if TYPE_CHECKING:
    from sdpo.launch import Job
    from sdpo.settings import OnlineSettings


def check(settings: "OnlineSettings", job: "Job") -> None:
    """Check whatever can be checked without loading a model. Raises SdpoError on the first fault."""
    check_user(settings)
    for path in (settings.train_jsonl, *([settings.val_jsonl] if settings.eval_n else [])):
        read_prompts(path, job.data_command)
    check_training(settings, ("model_name_or_path", "user_model_name_or_path"))


def run(settings: "OnlineSettings", job: "Job") -> int:
    """Train, and return the exit code. Raises as `run_session` does."""

    def start():
        from sdpo.train.online_session import OnlineSession

        return OnlineSession(settings, job)

    return run_session(settings, job, start)


def training_prompts(rows: list[Prompt], job: "Job") -> list[dict]:
    """Return dataset rows: id and the messages of the prompt, the data file's suffix taken off again."""
    system = [{"role": "system", "content": job.system_prompt}] if job.system_prompt else []
    return [
        {"id": row.id, "prompt": [*system, {"role": "user", "content": row.prompt.removesuffix(job.prompt_suffix)}]}
        for row in rows
    ]
