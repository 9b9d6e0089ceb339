"""The settings of what is done with a trained model and its records elsewhere: tracking, the hub, other formats."""

# ruff: noqa: RUF009 (`setting` is a `field`)

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdpo.settings.checks import llama_cpp_folder, repository_name
from sdpo.settings.common import CommonSettings, JobSettings
from sdpo.settings.declare import setting


@dataclass(frozen=True, kw_only=True)
class PublishingSettings(JobSettings):
    """Tracking and publishing."""

    report_to: Literal["wandb", "trackio", "tensorboard", "mlflow", "none"] = setting(
        "wandb", "where the run's metrics are tracked beside the run directory; all but wandb need their package"
    )
    push_to_hub: str | None = setting(
        None, "after training upload the model and its card to this repository of the hub", check=repository_name
    )
    hub_public: bool = setting(False, "make a repository that the upload creates public; it is private otherwise")
    model_license: str | None = setting(
        None, "the licence that the model card names, by its identifier on the hub, such as apache-2.0"
    )
    export: Literal["none", "gguf"] = setting(
        "none", "after training also write the model as GGUF, with a Modelfile for Ollama; needs llama.cpp"
    )
    llama_cpp: Path | None = setting(
        None, "the folder of llama.cpp, unless its convert_hf_to_gguf.py is on PATH", check=llama_cpp_folder
    )


@dataclass(frozen=True, kw_only=True)
class PushDataSettings(CommonSettings):
    """Uploading data."""

    data: Path | None = setting(None, "the folder that a prep- job has written")
    repo: str | None = setting(None, "the hub's repository for the data, such as owner/name", check=repository_name)
    public: bool = setting(False, "make a repository that the upload creates public; it is private otherwise")
    allow_unredacted: bool = setting(False, "upload conversations whose keys, addresses and numbers are not redacted")
