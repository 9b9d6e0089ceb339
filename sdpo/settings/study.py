"""The settings of the study on the tiny world."""

# ruff: noqa: RUF009 (`setting` is a `field`)

from dataclasses import dataclass
from pathlib import Path

from sdpo.settings.common import CommonSettings
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
