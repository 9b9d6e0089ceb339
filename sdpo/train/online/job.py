"""The online training job: its checks before a model is loaded, and its run.

Importing this is cheap: torch, transformers and TRL are imported when the run starts.
"""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from sdpo.errors import SettingError
from sdpo.llm import check_claude
from sdpo.text.records import read_replays
from sdpo.train.job import TrainingRun, check_outside, check_training, run_session
from sdpo.train.online.data import read_training_prompts, read_validation_prompts
from sdpo.train.online.user import check_user

# Interactions up to which no run with a live teacher collapsed on the tiny world, and the same with NULL_CONTRAST
# (docs/study.jsonl).
LIVE_STABLE, LIVE_STABLE_CONTRASTED = 1040, 240

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import OnlineSettings


def check(settings: "OnlineSettings", job: "Job") -> list[str]:
    """Check everything that can be checked without loading a model. Raises SdpoError on the first fault.

    Returns a line on the rows, against those of a step. Also prints a warning about settings that are allowed but are
    known to end badly, so that a dry run shows it too.
    """
    rows: Sequence[object]
    if settings.replay_jsonl is None:
        check_user(settings, job)
        rows = read_training_prompts(settings, job)
    else:
        rows = read_replays(settings.replay_jsonl)
    _check_generation(settings)
    if settings.eval_n:
        read_validation_prompts(settings, job)
    if settings.eval_steps and not (settings.eval_n and settings.asks_user):
        missing = "a simulated user, and REPLAY_JSONL has none" if settings.eval_n else "EVAL_N, the number of prompts"
        raise SettingError(f"EVAL_STEPS={settings.eval_steps} needs {missing}.")
    path = settings.replay_jsonl or settings.train_jsonl
    if len(rows) < settings.train_n:
        raise SettingError(f"TRAIN_N={settings.train_n}, but {path} has only {len(rows)} rows. Lower TRAIN_N.")
    served_here = settings.asks_user and settings.user_needs_server and not settings.simulator_url
    check_training(settings, job.name)
    check_outside(settings, "model", *(["user_model_name_or_path"] if served_here else []))
    if settings.asks_user and settings.user_is_claude:
        model, key = settings.user_model_name_or_path, settings.anthropic_api_key
        check_claude(model, key, "USER_MODEL_NAME_OR_PATH", settings.dry_run)
    warn_of_live_collapse(settings)
    return [_rows_and_steps(settings, path, len(rows))]


def _rows_and_steps(settings: "OnlineSettings", path: Path | None, count: int) -> str:
    passes = f", ITERATIONS={settings.iterations} times" if settings.iterations > 1 else ""
    return (
        f"{path}: {count:,} rows; TRAIN_N={settings.train_n} of them{passes}, in steps of {settings.step_rows} "
        f"(BS={settings.bs} x GA={settings.ga} x GPUS={settings.world_size}): "
        f"{settings.train_n // settings.step_rows * settings.iterations:,} steps"
    )


def _check_generation(settings: "OnlineSettings") -> None:
    """Raise SettingError if the backend that GENERATION names is missing or cannot take the policy's weights."""
    if settings.generation.startswith("vllm") and settings.adapter == "qlora":
        raise SettingError(
            f"GENERATION={settings.generation} does not work with ADAPTER=qlora: vLLM would get weights packed in 4 "
            "bits. Give ADAPTER=lora, or leave GENERATION out."
        )
    if settings.generation.startswith("vllm") and find_spec("vllm") is None:
        raise SettingError(
            f"GENERATION={settings.generation} needs the vllm package, which is not installed. Install the release "
            "that TRL names, or leave GENERATION out."
        )
    if settings.generation == "vllm_server" and settings.vllm_url is None:
        raise SettingError("GENERATION=vllm_server needs VLLM_URL, the address that `trl vllm-serve` listens on.")
    if settings.generation != "vllm_server" and settings.vllm_url is not None:
        raise SettingError("VLLM_URL is for GENERATION=vllm_server. Set that, or leave VLLM_URL out.")


def warn_of_live_collapse(settings: "OnlineSettings") -> None:
    """Print a warning if a run with a live teacher is longer than such runs are known to be stable."""
    stable = LIVE_STABLE_CONTRASTED if settings.null_contrast else LIVE_STABLE
    if settings.teacher == "live" and settings.train_n > stable and os.environ.get("LOCAL_RANK", "0") == "0":
        print(
            f"TEACHER=live over {settings.train_n} interactions: on the tiny world all such runs were stable for "
            f"{stable} interactions, some collapsed soon after. GUARD detects that. TEACHER=gated OBJECTIVE=full "
            "FOCUS=1 learned and stayed stable.",
            flush=True,
        )


def run(settings: "OnlineSettings", job: "Job") -> int:
    """Train and return the exit code. Raises as `run_session` does."""

    def start() -> TrainingRun:
        from sdpo.train.online.session import OnlineSession

        return OnlineSession(settings, job)

    return run_session(settings, job, start)
