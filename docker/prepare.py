"""What has to be there before the trainer starts: the data of JOB, and the models. What is there already stays.

Runs in the one container beside the trainer that may reach the hub; the simulator may not.
"""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import jobs
from sdpo import settings as settings_module
from sdpo.errors import SdpoError, SettingError, nearest, one_line
from sdpo.runtime.launch import Job
from sdpo.settings import TrainingSettings
from sdpo.settings.resolve import export_dotenv, resolve

# Weights in one format, and what belongs to them.
_FILES = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"]


def main() -> int:
    """Prepare what the environment's JOB needs and return the exit code; an error is one line on stderr."""
    try:
        job = _job(os.environ.get("JOB") or "train-online-tldr")
        settings = resolve(job.settings, [], job=job.name, defaults=job.defaults, tiny=job.tiny)
        export_dotenv()
        models = _models(settings)
        code = _data(settings, job)
        for model in [] if code else models:
            _fetch(model)
    except SdpoError as error:
        print(f"error: {one_line(error, limit=1000)}", file=sys.stderr, flush=True)
        return error.exit_code
    if not code:
        print("prepared", flush=True)
    return code


def _job(name: str) -> Job:
    """Return the training job of this name. Raises SettingError where there is none."""
    names = [path.stem.replace("_", "-") for path in Path(jobs.__path__[0]).glob("*.py")]
    job = import_module(f"jobs.{name.replace('-', '_')}").JOB if name in names else None
    if job is None or not issubclass(job.settings, TrainingSettings):
        trains = [known for known in names if known.startswith("train-")]
        raise SettingError(f"JOB={name} is no job that trains.{nearest(name, trains)}")
    return job


def _data(settings: TrainingSettings, job: Job) -> int:
    """Write the job's own data where they are missing, and return the exit code. Others' data have to be there."""
    if settings.train_jsonl is None or settings.train_jsonl.exists():
        return 0
    if settings_module.source(settings, "train_jsonl") != settings_module.JOB:
        raise SettingError(
            f"TRAIN_JSONL={settings.train_jsonl} is not there. In the containers it has to be in data/ or runs/."
        )
    return subprocess.run([sys.executable, "-m", f"jobs.{job.data_target.replace('-', '_')}"]).returncode


def _models(settings: TrainingSettings) -> list[str]:
    """Return the models that come from the hub. Raises SettingError for a user that the simulator cannot be."""
    user = getattr(settings, "user_model_name_or_path", None)
    if user and user.startswith("claude-"):
        raise SettingError(
            f"the simulator cannot serve {user}. Set USER_MODEL_NAME_OR_PATH to a model that it can, or run the job "
            "without it: DOCKER=1 make and the job's name."
        )
    names = dict.fromkeys(name for name in (settings.model_name_or_path, user) if name)
    return [name for name in names if not Path(name).exists()]


def _fetch(model: str) -> None:
    """Bring a model into the cache. Raises SettingError where the hub does not give it."""
    from huggingface_hub import snapshot_download

    print(f"{model}: from the hub, or from the cache", flush=True)
    try:
        snapshot_download(model, allow_patterns=_FILES)
    except (OSError, ValueError) as error:
        raise SettingError(
            f"{model} cannot be had from the hub: {one_line(error)} Check the name, HF_TOKEN and the network."
        ) from None


if __name__ == "__main__":
    raise SystemExit(main())
