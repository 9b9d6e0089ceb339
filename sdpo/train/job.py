"""What all training jobs share outside of their session: checks before a model is loaded, and exit codes.

Importing this is cheap: torch, transformers and TRL are imported when the run starts.
"""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from sdpo import settings as settings_module
from sdpo.errors import BudgetReached, RunError, RunStopped, ServerError, SettingError, command, one_line, pip_install
from sdpo.llm import RequestRefused
from sdpo.runtime.commands import new_run_command, resume_command
from sdpo.runtime.hub import check_upload
from sdpo.runtime.processes import visible_gpus
from sdpo.runtime.resuming import MAY_CHANGE_ON_RESUME
from sdpo.runtime.run_directory import RunDirectory
from sdpo.runtime.sharding import check_sharded, is_sharded
from sdpo.settings.inputs import check_contrast, check_model, check_quantized, local_config, read_template
from sdpo.text.records import read_prompts
from sdpo.train.export import MERGED, by_hand, converter
from sdpo.train.tracking import check_tracking, is_tracking_error, prepare_tracking

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import TrainingSettings


class TrainingRun(Protocol):
    """A run that is ready to start or to resume."""

    def run(self) -> bool:
        """Train; return False if the run was asked to stop before its end."""
        ...

    def save_now(self) -> None:
        """Write a checkpoint of the last finished step; every process calls it."""
        ...


def check_training(settings: "TrainingSettings", job: str) -> None:
    """Check the settings that all training jobs share, without loading a model. Raises SdpoError on the first fault.

    `job` is the name of the job that trains, for the command of a new run.
    """
    read_template(settings.hindsight_template, settings.hindsight_file)
    batch = settings.step_rows
    if settings.train_n is not None and settings.train_n < batch:
        raise SettingError(
            f"TRAIN_N={settings.train_n} is less than one step's {batch} rows (BS x GA x GPUS). Raise TRAIN_N or "
            "lower BS or GA."
        )
    check_objective(settings)
    if settings.adapter == "qlora" or settings.optimizer == "adamw_8bit":
        require_bitsandbytes(settings)
    if is_sharded(settings.accelerate_config):
        check_sharded(settings)
    read_rehearsal_prompts(settings)
    recorded, resume = settings_module.redacted(settings), settings.resume == "auto"
    run = RunDirectory(settings.run_directory_path)
    run.check_free()  # before a model is loaded, after which the directory is locked
    run.check_job(job)
    run.check(recorded, resume, new_run_command(settings, job))
    if settings.dry_run and resume and (last := run.last_checkpoint()):
        print(f"note: the run in {run.path} would be resumed from {last.name}.\n", flush=True)


def require_bitsandbytes(settings: "TrainingSettings") -> None:
    """Raise SettingError if bitsandbytes, which 4-bit weights and 8-bit AdamW need, is not installed."""
    if find_spec("bitsandbytes") is not None:
        return
    install = f"needs the bitsandbytes package. Install it ({pip_install('sdpo[gpu]')}), or set"
    if settings.adapter == "qlora":
        raise SettingError(f"ADAPTER=qlora {install} ADAPTER=lora.")
    raise SettingError(
        f"OPTIMIZER={settings.optimizer}, here 8-bit AdamW, {install} OPTIMIZER=adamw, whose state takes four times "
        "the memory."
    )


def read_rehearsal_prompts(settings: "TrainingSettings") -> list[str] | None:
    """Return the prompts of REHEARSAL_JSONL, None if it is not set. Raises RecordError for a malformed file."""
    if settings.rehearsal_jsonl is None:
        return None
    return [row.prompt for row in read_prompts(settings.rehearsal_jsonl, command("prep-english"))]


def check_outside(settings: "TrainingSettings", *models: str) -> None:
    """Check what may need the network, after all that does not: the models, and where the run is tracked.

    `models` are the names of the settings that name a model. Raises SdpoError on the first fault.
    """
    for name in models:
        check_model(settings, name, getattr(settings, name))
    check_quantized(settings, local_config(settings.model).get("quantization_config"))
    check_hub(settings, "Try again, or leave PUSH_TO_HUB out, and give it with this RUN_ID when the run has finished.")
    note_missing_converter(settings, "checkpoint-N", "\n  It can wait until the run has ended.")
    check_tracking(settings)


def check_hub(settings: "TrainingSettings", otherwise: str = "Try again.") -> None:
    """Raise SettingError if PUSH_TO_HUB is set and the hub would not take the model, as `check_upload` does."""
    if settings.push_to_hub:
        if settings.dry_run:
            what = "the model" if settings.adapter == "none" else "the adapter"
            what = "the merged model" if settings.merge_adapter else what
            kind = "a public" if settings.hub_public else "a private"
            print(
                f"note: at the end {what} and its card are uploaded to {settings.push_to_hub}, {kind} repository. The "
                "card has settings and figures, and no conversation."
            )
        check_upload("PUSH_TO_HUB", settings.push_to_hub, settings.hf_token, settings.dry_run, otherwise=otherwise)


def note_missing_converter(settings: "TrainingSettings", checkpoint: str, more: str = "") -> None:
    """Print in a dry run, and `more`, that llama.cpp's script is missing for the GGUF of a checkpoint of this name."""
    if settings.export == "gguf" and settings.dry_run and converter(settings.llama_cpp) is None:
        folder = settings.run_directory_path
        model = folder / (MERGED if settings.adapter != "none" else checkpoint)
        print(f"note: {by_hand(shlex.quote(str(model)), folder)}{more}\n", flush=True)


def check_objective(settings: "TrainingSettings") -> None:
    """Raise SettingError for settings that contradict each other or would have no effect."""
    given = settings_module.given(settings)
    if settings.objective != "token":
        for name in ("clip_signal", "centre_signal", "clip"):
            if name in given:
                raise SettingError(
                    f"{name.upper()} applies to the sampled token's signal, which OBJECTIVE={settings.objective} does "
                    "not use. Leave it out, or set OBJECTIVE=token."
                )
    for name, objectives in (("direction", ("full", "top_k")), ("top_k", ("top_k",))):
        if name in given and settings.objective not in objectives:
            kinds = " or ".join(objectives)
            raise SettingError(f"{name.upper()} is for OBJECTIVE={kinds}. Set that, or leave {name.upper()} out.")
    if "contrast_plausibility" in given and settings.objective not in ("full", "top_k"):
        raise SettingError(
            "CONTRAST_PLAUSIBILITY compares a token with the most likely one, which "
            f"OBJECTIVE={settings.objective} does not see. Leave it out, or set OBJECTIVE=full."
        )
    check_contrast(settings)
    if getattr(settings, "content_weight", 0) and settings.learn_from != "complaints" and "content_weight" in given:
        raise SettingError("CONTENT_WEIGHT is for LEARN_FROM=complaints. Set that, or leave it out.")
    if getattr(settings, "content_weight", 0) and settings.teacher == "live" and "content_weight" in given:
        raise SettingError(
            "CONTENT_WEIGHT draws answers to what the teacher says to the prompt alone, which TEACHER=live says as the "
            "policy does. Set TEACHER=frozen, or leave it out."
        )
    if settings.rehearsal_jsonl and not settings.rehearsal:
        raise SettingError("REHEARSAL_JSONL is for REHEARSAL above 0, which is the weight. Set that, or leave it out.")
    if "ema_rate" in given and settings.teacher != "ema":
        raise SettingError("EMA_RATE is for TEACHER=ema. Set that, or leave it out.")
    if settings.adapter == "qlora" and settings.teacher in ("ema", "gated"):
        raise SettingError(
            f"TEACHER={settings.teacher} updates its own copy of the weights, which ADAPTER=qlora holds in 4 bits. "
            "Choose TEACHER=frozen, or ADAPTER=lora."
        )
    if settings.adapter != "none" and "lm_head" in settings.lora_targets:
        raise SettingError("LORA_TARGETS cannot include lm_head: scoring uses its weights directly. Leave it out.")
    if settings.adapter == "none":
        for name in ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets"):
            if name in given:
                raise SettingError(f"{name.upper()} is for an adapter. Set ADAPTER=lora or qlora, or leave it out.")
    check_publishing(settings)
    if settings.merge_adapter and settings.adapter == "none":
        raise SettingError("MERGE_ADAPTER needs an adapter. Set ADAPTER=lora or qlora, or leave it out.")


def check_publishing(settings: "TrainingSettings") -> None:
    """Raise SettingError for settings of the export or the upload that would have no effect."""
    if settings.llama_cpp is not None and settings.export == "none":
        raise SettingError("LLAMA_CPP is for EXPORT=gguf. Set that, or leave it out.")
    if settings.hub_public and not settings.push_to_hub:
        raise SettingError("HUB_PUBLIC is for PUSH_TO_HUB. Set that, or leave it out.")


def run_session(settings: "TrainingSettings", job: "Job", start: Callable[[], TrainingRun]) -> int:
    """Train with the session that `start` returns; return the exit code: 0 if finished, 143 if asked to stop.

    Raises GuardStopped; also ServerError (SimulatorUnavailable above all) and BudgetReached, after saving a checkpoint
    and with the command that resumes the run in the message.
    """
    check_driver()
    prepare_tracking(settings)
    try:
        session = start()
    except KeyboardInterrupt:
        _print_how_to_go_on(settings, job)
        raise
    try:
        finished = session.run()
    except RunStopped:
        finished = False
    except KeyboardInterrupt:
        _print_how_to_go_on(settings, job)
        raise
    except (ServerError, BudgetReached) as error:
        session.save_now()
        raise type(error)(f"{error} {_next_command(settings, job.name, error)}") from None
    except Exception as error:
        if not is_tracking_error(error):
            raise
        raise RunError(
            f"wandb cannot track the run: {one_line(error)}. Correct WANDB_ENTITY, WANDB_PROJECT or the key, or set "
            f"WANDB_MODE=offline; {_how_to_go_on(settings, job.name)}"
        ) from None
    if not finished:
        print(f"stopped and saved; {_how_to_go_on(settings, job.name)}", flush=True)
        return RunStopped.exit_code
    return 0


def _print_how_to_go_on(settings: "TrainingSettings", job: "Job") -> None:
    """Print the command that goes on with the run after Ctrl-C. The first process does so."""
    if os.environ.get("RANK", "0") == "0":
        last = RunDirectory(settings.run_directory_path).last_checkpoint()
        line = f"no checkpoint is written yet; begin anew with: {resume_command(settings, job.name)}"
        if last:
            line = f"{last.name} is kept; {_how_to_go_on(settings, job.name)}"
        print(line, file=sys.stderr, flush=True)


def _how_to_go_on(settings: "TrainingSettings", job: str, correct: Sequence[str] = ()) -> str:
    """Return words and the command that resumes the run or, from weights alone, trains on in a new one.

    The names of settings to `correct` have "..." for a value.
    """
    last = RunDirectory(settings.run_directory_path).last_checkpoint() if settings.save_only_model else None
    if last is None:
        return f"resume with: {resume_command(settings, job, correct)}"
    alone = f"{last.name} has the weights alone (SAVE_ONLY_MODEL=1), so it is not resumed"
    if settings.adapter != "none":  # no run starts from an adapter
        return f"{alone}; a new run: {new_run_command(settings, job, correct)}"
    return f"{alone}; train on from them with: {new_run_command(settings, job, correct, model=last)}"


def _next_command(settings: "TrainingSettings", job: str, error: ServerError | BudgetReached) -> str:
    """Return a sentence with the command that goes on after an error, without the setting that was refused."""
    correct = ["max_cost"] if isinstance(error, BudgetReached) else []
    if isinstance(error, RequestRefused):
        declared = settings_module.settings_of(type(settings))
        correct = [name for name in map(str.lower, error.settings) if name in declared]
        if fixed := [name for name in correct if name not in MAY_CHANGE_ON_RESUME]:
            name = settings_module.shown_name(fixed[0])
            return f"The run is saved. A new run with another {name}: {new_run_command(settings, job, correct)}"
    return f"The run is saved; {_how_to_go_on(settings, job, correct)}"


def check_driver() -> None:
    """Raise SettingError if there are GPUs that torch cannot use: training would silently run on the CPU for weeks."""
    import torch

    if visible_gpus() and not torch.cuda.is_available():
        built = torch.version.cuda
        needs = f"CUDA {built}; this release needs NVIDIA driver 580 or newer" if built else "the CPU alone"
        raise SettingError(f"torch cannot use this machine's GPUs: it is built for {needs}.")
