"""The settings of the studies: on the tiny world and on real models."""

# ruff: noqa: RUF009 (`setting` is a `field`)

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sdpo.settings.common import MODEL_ELSEWHERE, CommonSettings
from sdpo.settings.declare import setting


@dataclass(frozen=True, kw_only=True)
class StudySettings(CommonSettings):
    """The study."""

    study_dir: Path = setting(Path("docs"), "the folder of study.jsonl, which has one line per finished run")
    study_table: Path = setting(Path("docs/study.md"), "the file for the tables")
    parts: str = setting("table,noise,guard,flip,sequence,long", "the parts of the study to run, separated by commas")
    teachers: str = setting("live,frozen,ema,gated", "the teachers of the table")
    objectives: str = setting(
        "token,token+null,full/reverse,full/forward,full/jsd,full/reverse+focus,top_k/reverse,top_k/forward,top_k/jsd",
        "the objectives of the table; +null is with NULL_CONTRAST, +focus with FOCUS",
    )
    finalists: str = setting(
        "live token,frozen token,gated full/reverse+focus", "the pairs that are run with FINALIST_SEEDS seeds"
    )
    seeds: int = setting(3, "the number of seeds per run", at_least=1)
    finalist_seeds: int = setting(
        10, "the number of seeds for the finalists and for the runs that test the guard", at_least=1
    )
    recommended: str = setting(
        "gated full/reverse+focus", "the pair that parts noise, guard, flip, sequence and long are about"
    )
    interactions: int = setting(1600, "the number of interactions of a run", at_least=480)
    long_interactions: int = setting(16000, "the number of interactions of a run of part long", at_least=480)
    collapse_interactions: int = setting(
        8000,
        "the number of interactions of the live runs that test the guard, unless they collapse before",
        at_least=480,
    )
    answers: int = setting(512, "the number of answers measured at each point of a curve", at_least=1)
    parallel: int = setting(1, "the number of runs at a time, each on one core", at_least=1)


@dataclass(frozen=True, kw_only=True)
class RealStudySettings(CommonSettings):
    """The study on real models."""

    model: str = setting(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "the models, hub names or folders, separated by spaces",
        elsewhere=MODEL_ELSEWHERE,
    )
    study_dir: Path = setting(Path("docs"), "the folder of real.jsonl, which has one line per result")
    study_table: Path = setting(Path("docs/real.md"), "the file for the tables")
    scratch: Path = setting(Path("runs/study-real"), "the folder for the training runs, which can be resumed there")
    parts: str = setting("signal,audit,training,logs", "the parts of the study to run, separated by commas")
    templates: str = setting("before,after,earlier_turn,system,framed", "the templates of part signal")
    signal_prompts: int = setting(26, "the number of prompts of part signal", at_least=2)
    audit_n: int = setting(
        96, "the number of interactions of part audit, of which eight or more have to be complaints", at_least=8
    )
    styles: str = setting("brief,no_lists,exclamation", "the styles of parts audit and training")
    variants: str = setting(
        "RECIPE=recommended",
        "the settings of parts audit and training: NAME=value words, variants separated by semicolons",
    )
    seeds: int = setting(2, "the number of seeds of each run", at_least=1)
    interactions: int = setting(240, "the number of interactions of a run", at_least=8)
    bs: int = setting(8, "the batch size of training", at_least=1)
    max_completion_tokens: int = setting(64, "the maximum length of an answer", at_least=1)
    eval_n: int = setting(64, "the number of held-out prompts that are answered before and after", at_least=1)
    precision: Literal["auto", "bf16", "fp32"] = setting("auto", "auto: bf16 on a GPU, fp32 elsewhere")
    parallel: int = setting(1, "the number of training runs at a time, each on one core", at_least=1)
