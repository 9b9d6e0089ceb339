"""The online training job: what it checks before anything is loaded, and how it runs.

Importing this is cheap; torch and its company are imported when the run starts.
"""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from sdpo import prompts
from sdpo import settings as settings_module
from sdpo.errors import BudgetSpent, RunStopped, ServerError, SettingError
from sdpo.processes import visible_gpus
from sdpo.records import Prompt, read_prompts
from sdpo.run import RunDirectory
from sdpo.simulator import persona_of
from sdpo.tiny import MODEL_DIR
from sdpo.train.user import check_user

if TYPE_CHECKING:
    from sdpo.launch import Job
    from sdpo.settings import OnlineSettings


def check(settings: "OnlineSettings", job: "Job") -> None:
    """Check whatever can be checked without loading a model. Raises SdpoError on the first fault."""
    check_user(settings)
    read_template(settings.hindsight_file)
    for path in (settings.train_jsonl, *([settings.val_jsonl] if settings.eval_n else [])):
        read_prompts(path, job.data_command)
    for name in ("model_name_or_path", "user_model_name_or_path"):
        check_model_path(name, getattr(settings, name))
    batch = settings.bs * settings.ga * settings.world_size
    if settings.train_n < batch:
        raise SettingError(
            f"TRAIN_N={settings.train_n} is less than one step's {batch} prompts (BS x GA x GPUS). Raise TRAIN_N or "
            "lower BS or GA."
        )
    RunDirectory(settings.output_dir).check(settings_module.redacted(settings), settings.resume == "auto")


def check_model_path(name: str, value: str) -> None:
    """Raise SettingError where a model given as a local path is not one."""
    looks_local = value.startswith(("/", "./", "../", "~")) or Path(value).exists()
    if looks_local and not (Path(value).expanduser() / "config.json").exists():
        raise SettingError(f"{name.upper()}={value} has no config.json. Name a model's folder or its hub id.")


def read_template(path: Path | None) -> str:
    """Return the hindsight template: the shipped one, or the file's. Raises SettingError for a bad file."""
    if path is None:
        return prompts.HINDSIGHT
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingError(f"HINDSIGHT_FILE={path} cannot be read: {error}.") from None
    if text.count("{follow_up}") != 1:
        raise SettingError(f"HINDSIGHT_FILE={path} must hold {{follow_up}} exactly once.")
    return text


def run(settings: "OnlineSettings", job: "Job") -> int:
    """Train, and return the exit code: 0 when finished, 143 when asked to stop.

    Raises SimulatorGone and BudgetSpent, saved and with the command that continues the run.
    """
    from sdpo.train.session import OnlineSession

    _check_driver()
    prepare_tracking(settings)

    session = OnlineSession(settings, job)
    try:
        finished = session.run()
    except RunStopped:
        finished = False
    except (ServerError, BudgetSpent) as error:
        session.save_now()
        command = resume_command(settings, job, higher_cost=isinstance(error, BudgetSpent))
        raise type(error)(f"{error} The run is saved; continue it with: {command}") from None
    if not finished:
        print(f"stopped and saved; continue with: {resume_command(settings, job)}", flush=True)
        return RunStopped.exit_code
    return 0


def resume_command(settings: "OnlineSettings", job: "Job", higher_cost: bool = False) -> str:
    """Return the Make command that continues this run with the same settings, or with a MAX_COST to fill in."""
    left_out = {"run_id", "output_dir", "simulator_url", *(["max_cost"] if higher_cost else [])}
    given = {name: value for name, value in settings_module.given(settings).items() if name not in left_out}
    words = [f"{name.upper()}={shlex.quote(str(value))}" for name, value in given.items()]
    words += [f"RUN_ID={settings.run_id}", *(["MAX_COST=..."] if higher_cost else [])]
    if settings_module.source(settings, "output_dir") != "default":
        words += [f"OUTPUT_DIR={shlex.quote(str(settings.output_dir))}"]
    return " ".join(["make", job.name, *words])


def run_facts(settings: "OnlineSettings", job: "Job") -> dict[str, str]:
    """Return what an evaluation has to know of the run beside its settings."""
    return {
        "job": job.name,
        "system_prompt": job.system_prompt,
        "prompt_suffix": job.prompt_suffix,
        "persona": persona_of(settings.style, settings.style_file),
    }


def training_prompts(rows: list[Prompt], job: "Job") -> list[dict]:
    """Return dataset rows: id and the messages of the prompt, the data file's suffix taken off again."""
    system = [{"role": "system", "content": job.system_prompt}] if job.system_prompt else []
    return [
        {"id": row.id, "prompt": [*system, {"role": "user", "content": row.prompt.removesuffix(job.prompt_suffix)}]}
        for row in rows
    ]


def _check_driver() -> None:
    """Raise SettingError where there are GPUs that torch cannot use: silently training on the CPU takes weeks."""
    import torch

    if visible_gpus() and not torch.cuda.is_available():
        built = torch.version.cuda
        needs = f"CUDA {built}; this release needs NVIDIA driver 580 or newer" if built else "the CPU alone"
        raise SettingError(f"there are GPUs here that torch cannot use: it is built for {needs}.")


def prepare_tracking(settings: "OnlineSettings") -> None:
    """Have wandb track online with a key and offline without, into the run directory."""
    os.environ.setdefault("WANDB_PROJECT", "sdpo")
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ["WANDB_DIR"] = str(settings.output_dir)
    if not os.environ.get("WANDB_API_KEY"):
        os.environ["WANDB_MODE"] = "offline"
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print("WANDB_API_KEY is not set: tracking offline, in the run directory", flush=True)


def is_tiny(settings: "OnlineSettings") -> bool:
    """Return whether the policy is the shipped tiny model, whose answers the oracle can read."""
    return Path(settings.model_name_or_path).resolve() == MODEL_DIR.resolve()
