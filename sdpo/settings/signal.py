"""The settings of analysing the signal before training: `signal-analysis` and `audit`."""

# ruff: noqa: RUF009 (`setting` is a `field`)

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdpo.settings.checks import existing_file, http_address, template_file
from sdpo.settings.common import MODEL_ELSEWHERE, JobSettings, Template
from sdpo.settings.contrast import ContrastSettings
from sdpo.settings.declare import setting


@dataclass(frozen=True, kw_only=True)
class SignalSettings(JobSettings):
    """The model and how it is prompted."""

    model: str = setting("Qwen/Qwen3-8B", "the model to analyse, a hub name or a folder", elsewhere=MODEL_ELSEWHERE)
    output_dir: Path | None = setting(None, "the run directory, instead of one in SCRATCH", alias="out_dir")
    precision: Literal["auto", "bf16", "fp32"] = setting(
        "auto", "the dtype of the weights; auto: fp32; probabilities are always float32"
    )
    hindsight_template: Template = setting("before", "where the follow-up is shown in hindsight, and in which words")
    hindsight_file: Path | None = setting(
        None, "a file with other words for the template; it must contain {follow_up}", check=template_file
    )
    max_completion_tokens: int = setting(256, "the maximum length of an answer", at_least=1)
    temperature: float = setting(1.0, "the sampling temperature of the answers", at_least=0)
    bs: int = setting(8, "the number of rows per forward pass", at_least=1)


@dataclass(frozen=True, kw_only=True)
class AnalysisSettings(SignalSettings):
    """The cases to plot."""

    cases_json: Path | None = setting(None, "a JSON file of cases, instead of the shipped ones", check=existing_file)
    n_cases: int = setting(24, "the number of cases to use, starting with the first", at_least=1)
    alternatives: int = setting(
        5, "the number of most likely tokens that the page shows at each position", at_least=0, below=51
    )


@dataclass(frozen=True, kw_only=True)
class AuditSettings(ContrastSettings, SignalSettings):
    """The audit."""

    model: str = setting(
        "Qwen/Qwen3-8B",
        "the model to analyse, a hub name or a folder; several are separated by spaces (quote a name with spaces)",
        elsewhere=MODEL_ELSEWHERE,
    )
    data: Path | None = setting(None, "the interactions to audit with, as a preparation job writes them")
    templates: str | None = setting(
        None, "more hindsight templates to compare, separated by spaces: shipped names or files"
    )
    audit_n: int = setting(128, "the number of interactions to sample", at_least=8)
    max_prompt_tokens: int = setting(2048, "interactions with longer prompts are left out and counted", at_least=1)
    judge_model: str | None = setting(
        None,
        "the judge of answers: a model, a claude-... name, rule (checks the STYLE that the follow-ups ask for) or "
        "oracle (TINY=1); if not set, the model itself",
    )
    style: str | None = setting(None, "for JUDGE_MODEL=rule, the style that the follow-ups ask for, by name")
    style_file: Path | None = setting(None, "a JSON file with your own styles", check=existing_file)
    judge_url: str | None = setting(None, "an OpenAI-compatible server with JUDGE_MODEL", check=http_address)
    judge_api_key: str | None = setting(None, "for a JUDGE_URL that requires a key", secret=True)
    max_cost: float | None = setting(None, "stop before the judge costs more US dollars than this", above=0)
    price_file: Path | None = setting(None, "a JSON file of prices, instead of the shipped one", check=existing_file)
    concurrency: int = setting(32, "the maximum number of requests in flight", at_least=1)
