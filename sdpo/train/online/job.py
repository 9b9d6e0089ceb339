"""The online training job: what it checks before anything is loaded, and how it runs.

Importing this is cheap; torch and its company are imported when the run starts.
"""

import os
from importlib.util import find_spec
from typing import TYPE_CHECKING

from sdpo.errors import SettingError
from sdpo.text.records import read_prompts, read_replays
from sdpo.train.job import check_training, run_session
from sdpo.train.online.user import check_user

# The interactions that every live teacher lasted on the tiny world, and those with NULL_CONTRAST (docs/study.jsonl).
LIVE_LASTED, LIVE_LASTED_CONTRASTED = 1040, 240

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import OnlineSettings


def check(settings: "OnlineSettings", job: "Job") -> None:
    """Check whatever can be checked without loading a model. Raises SdpoError on the first fault.

    What is allowed but was seen to end badly is said, so that a dry run says it too.
    """
    if settings.asks_user:
        check_user(settings)
    rows = (
        read_prompts(settings.train_jsonl, job.data_command)
        if settings.asks_user
        else read_replays(settings.replay_jsonl)
    )
    _check_generation(settings)
    if settings.eval_n:
        read_prompts(settings.val_jsonl, job.data_command)
    if settings.eval_steps and not (settings.eval_n and settings.asks_user):
        missing = "a user to ask, and REPLAY_JSONL has none" if settings.eval_n else "EVAL_N, the number of prompts"
        raise SettingError(f"EVAL_STEPS={settings.eval_steps} needs {missing}.")
    if not settings.asks_user and len(rows) < settings.train_n:
        raise SettingError(f"TRAIN_N={settings.train_n}, but {settings.replay_jsonl} has only {len(rows)} rows.")
    check_training(settings, ("model_name_or_path", *(["user_model_name_or_path"] if settings.asks_user else [])))
    warn_of_live_collapse(settings)


def _check_generation(settings: "OnlineSettings") -> None:
    """Raise SettingError where what generates the answers is not there."""
    if settings.generation.startswith("vllm") and find_spec("vllm") is None:
        raise SettingError(
            f"GENERATION={settings.generation} needs the vllm package, which is not installed. Install the release "
            "that TRL names, or leave GENERATION out."
        )
    if settings.generation == "vllm_server" and settings.vllm_url is None:
        raise SettingError("GENERATION=vllm_server needs VLLM_URL, the address that `trl vllm-serve` listens on.")


def warn_of_live_collapse(settings: "OnlineSettings") -> None:
    """Print a warning before a run that is longer than a live teacher was seen to last."""
    lasted = LIVE_LASTED_CONTRASTED if settings.null_contrast else LIVE_LASTED
    if settings.teacher == "live" and settings.train_n > lasted and os.environ.get("LOCAL_RANK", "0") == "0":
        print(
            f"TEACHER=live over {settings.train_n} interactions: all such runs on the tiny world lasted for {lasted}, "
            "some fell soon after. GUARD watches for that. TEACHER=gated OBJECTIVE=full FOCUS=1 learned and stayed.",
            flush=True,
        )


def run(settings: "OnlineSettings", job: "Job") -> int:
    """Train, and return the exit code. Raises as `run_session` does."""

    def start():
        from sdpo.train.online.session import OnlineSession

        return OnlineSession(settings, job)

    return run_session(settings, job, start)
