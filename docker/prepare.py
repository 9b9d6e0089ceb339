"""Prepares what the trainer needs: the data of JOB and the models. Existing data and models are kept.

Runs in the only container besides the trainer that has access to the hub; the simulator has none.
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

# Weights in one format, with configuration, tokenizer and templates.
_FILES = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model"]


def main() -> int:
    """Prepare data and models for JOB and return the exit code. An error is printed as one line on stderr."""
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
    """Return the training job of this name. Raises SettingError if there is none."""
    names = [path.stem.replace("_", "-") for path in Path(jobs.__path__[0]).glob("*.py")]
    job = import_module(f"jobs.{name.replace('-', '_')}").JOB if name in names else None
    if job is None or not issubclass(job.settings, TrainingSettings):
        training_names = [known for known in names if known.startswith("train-")]
        raise SettingError(f"JOB={name} is not a training job.{nearest(name, training_names)}")
    return job


def _data(settings: TrainingSettings, job: Job) -> int:
    """Prepare the job's default data if missing and return the exit code.

    Raises SettingError if a file that the user gave does not exist.
    """
    if settings.train_jsonl is None or settings.train_jsonl.exists():
        return 0
    if settings_module.source(settings, "train_jsonl") != settings_module.JOB:
        raise SettingError(
            f"TRAIN_JSONL={settings.train_jsonl} does not exist. In the containers it has to be in data/ or runs/."
        )
    return subprocess.run([sys.executable, "-m", f"jobs.{job.data_target.replace('-', '_')}"]).returncode


def _models(settings: TrainingSettings) -> list[str]:
    """Return the models to get from the hub. Raises SettingError for a user model that the simulator cannot serve."""
    user = getattr(settings, "user_model_name_or_path", None)
    if user and user.startswith("claude-"):
        raise SettingError(
            f"the simulator cannot serve {user}. Set USER_MODEL_NAME_OR_PATH to a model that it can serve, or run the "
            "job without it: DOCKER=1 make <job>."
        )
    names = dict.fromkeys(name for name in (settings.model, user) if name)
    return [name for name in names if not Path(name).exists()]


def _fetch(model: str) -> None:
    """Download a model to the cache. Raises SettingError if the hub does not provide it."""
    from huggingface_hub import snapshot_download

    print(f"{model}: loading from the hub or the cache", flush=True)
    try:
        snapshot_download(model, allow_patterns=_FILES)
    except (OSError, ValueError) as error:
        raise SettingError(
            f"{model} cannot be loaded from the hub: {one_line(error)} Check the name, HF_TOKEN and the network."
        ) from None


if __name__ == "__main__":
    raise SystemExit(main())
