"""The settings of looking at the signal before training: drawing it, and auditing it."""

# ruff: noqa: RUF009 (`setting` is a `field`)

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdpo.settings.checks import existing_file, http_address, template_file
from sdpo.settings.common import JobSettings
from sdpo.settings.declare import setting


@dataclass(frozen=True, kw_only=True)
class SignalSettings(JobSettings):
    """The model and how it is asked."""

    model: str = setting("Qwen/Qwen3-8B", "the model to look at, a hub name or a folder")
    output_dir: Path | None = setting(None, "the run's folder, instead of the one in SCRATCH", alias="out_dir")
    precision: Literal["auto", "bf16", "fp32"] = setting(
        "auto", "what the weights are held in; auto: fp32, and probabilities are float32 either way"
    )
    hindsight_file: Path | None = setting(
        None, "a file with the hindsight template; it must contain {follow_up}", check=template_file
    )
    max_completion_tokens: int = setting(256, "the longest answer", at_least=1)
    temperature: float = setting(1.0, "the sampling temperature of the answers", at_least=0)
    bs: int = setting(8, "how many rows go through the model at once", at_least=1)


@dataclass(frozen=True, kw_only=True)
class AnalysisSettings(SignalSettings):
    """What to draw."""

    cases_json: Path | None = setting(None, "a JSON file of cases in place of the shipped ones", check=existing_file)
    n_cases: int = setting(24, "how many of the cases, from the first on", at_least=1)
    alternatives: int = setting(
        5, "how many of the likeliest tokens the page shows at each place", at_least=0, below=51
    )


@dataclass(frozen=True, kw_only=True)
class AuditSettings(SignalSettings):
    """What to audit."""

    model: str = setting(
        "Qwen/Qwen3-8B",
        "the model to look at, a hub name or a folder; several, with spaces between (quote a name that has some)",
    )
    data: Path | None = setting(None, "the interactions to audit with, as a preparation job writes them")
    templates: str | None = setting(None, "files with more hindsight templates to compare, with spaces between")
    audit_n: int = setting(128, "how many interactions to sample", at_least=8)
    max_prompt_tokens: int = setting(2048, "interactions with longer prompts are left out and counted", at_least=1)
    judge_model: str | None = setting(
        None, "who compares answers: a model, a claude-... name or oracle (TINY=1); not set asks the model itself"
    )
    judge_url: str | None = setting(None, "an OpenAI-compatible server that has JUDGE_MODEL", check=http_address)
    judge_api_key: str | None = setting(None, "for a JUDGE_URL that asks for a key", secret=True)
    max_cost: float | None = setting(None, "stop before the judge costs more US dollars than this", above=0)
    concurrency: int = setting(32, "how many replies to ask for at once", at_least=1)
