"""The settings of evaluation: the run and its checkpoints, the baseline, and the judges."""

# ruff: noqa: RUF009 (`setting` is a `field`)

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdpo.settings.checks import (
    existing_file,
    existing_folder,
    existing_path,
    folder_words,
    folders_in,
    http_address,
    names,
    step_list,
)
from sdpo.settings.declare import setting
from sdpo.settings.release import ReleaseSettings

# Who judges on general prompts, unless JUDGE_MODEL says otherwise.
GENERAL_JUDGE = "claude-haiku-4-5-20251001"


@dataclass(frozen=True, kw_only=True)
class EvalSettings(ReleaseSettings):
    """Evaluating a run."""

    run_dir: Path | None = setting(
        None,
        "the run to evaluate, or several that were trained one after another; if not set, the newest one in SCRATCH",
        check=folder_words,
    )
    ckpts: str | None = setting(
        None,
        "the steps of the checkpoints, or all; if not set, at most five of the run's, evenly spread up to the last one",
        check=step_list,
    )
    baseline: str | None = setting(
        None, "the model to compare with, or a folder with an adapter; if not set, the one the run started from"
    )
    data_path: Path | None = setting(
        None, "the validation prompts: their file, or a folder with validation.jsonl", check=existing_path
    )
    val_jsonl: Path | None = setting(None, "the file of validation prompts; if not set, the run's")
    eval_n: int = setting(256, "the number of validation prompts to answer", at_least=1)
    style: str | None = setting(None, "the style to judge by; if not set, the run's")
    style_file: Path | None = setting(None, "a JSON file with your own styles", check=existing_file)
    max_prompt_tokens: int = setting(
        512, "longer prompts are left out and counted; the run's value takes precedence", at_least=1
    )
    max_completion_tokens: int = setting(
        2048, "the maximum length of an answer; the run's value takes precedence", at_least=1
    )
    eval_temperature: float = setting(0.0, "the sampling temperature of the answers; 0 is greedy", at_least=0)
    eval_batch_size: int = setting(16, "the number of prompts per generation batch", at_least=1)
    precision: Literal["auto", "bf16", "fp32"] = setting("auto", "auto: bf16 on a GPU, fp32 elsewhere")
    answer_url: str | None = setting(
        None, "an OpenAI-compatible server with the models, instead of loading them here", check=http_address
    )
    answer_api_key: str | None = setting(None, "for an ANSWER_URL that requires a key", secret=True)
    condition: bool = setting(
        True, "measure the condition of every model: fluency, distance from the start, diversity, refusals, language"
    )
    judge_model: str = setting(
        "Qwen/Qwen3-8B",  # of the evaluation on posts; GENERAL_JUDGE on general prompts
        "one or more judges: a hub name, a folder, a claude-… name, or rule (for styles that a rule can check)",
        check=names,
    )
    judge_url: str | None = setting(
        None, "an OpenAI-compatible server with the judges, instead of loading them here", check=http_address
    )
    judge_api_key: str | None = setting(None, "for a JUDGE_URL that requires a key", secret=True)
    judge_batch_size: int = setting(8, "the number of pairs per batch of a judge loaded here", at_least=1)
    benchmarks: str | None = setting(
        None, "lm-eval tasks to compare the models on: names, groups or patterns, and the shipped sdpo", check=names
    )
    benchmark_tasks: Path | None = setting(
        None, "a folder of your own lm-eval task files (its --include_path)", check=existing_folder
    )
    benchmark_limit: int | None = setting(None, "use the first N items of each task; if not set, all", at_least=1)
    benchmark_shots: int | None = setting(
        None, "the number of examples in the prompt (num_fewshot); if not set, the task's", at_least=0
    )
    benchmark_chat_template: Literal["task", "on", "off"] = setting(
        "task", "show the items in the model's chat template (apply_chat_template); task: where a shipped task asks"
    )
    benchmark_code: bool = setting(
        False, "allow tasks that run code which the models wrote (confirm_run_unsafe_code), such as sdpo_code"
    )
    judge_truth: bool = setting(True, "try each judge on labelled pairs before its verdicts are used")
    concurrency: int = setting(32, "the maximum number of requests in flight", at_least=1)
    judge_timeout: float = setting(120.0, "the seconds that a reply of a server may take, retries included", above=0)
    max_cost: float | None = setting(None, "stop before the judges cost more US dollars than this", above=0)
    price_file: Path | None = setting(None, "a JSON file of prices, instead of the shipped one", check=existing_file)

    @property
    def run_dirs(self) -> list[Path]:
        """The runs to evaluate, in the order of their training; empty if RUN_DIR is not set."""
        return [] if self.run_dir is None else folders_in(self.run_dir)

    @property
    def judges(self) -> list[str]:
        """The names of the judges."""
        return list(dict.fromkeys(shlex.split(self.judge_model)))

    @property
    def steps(self) -> list[int] | None:
        """The requested checkpoint steps in order, None if CKPTS names none: it is not set, or all."""
        words = "all" if self.ckpts is None else self.ckpts.strip()
        return None if words == "all" else sorted(set(map(int, words.replace(",", " ").split())))
