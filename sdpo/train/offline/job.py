"""The offline training job: checks before anything is loaded, and the run.

Importing this module is cheap: torch and transformers are imported when the run starts.
"""

from typing import TYPE_CHECKING

from sdpo.settings.inputs import made_with
from sdpo.text.records import read_interactions
from sdpo.train.job import check_outside, check_training, run_session
from sdpo.train.offline.enough import check_enough, count_rows, describe
from sdpo.train.offline.mixture import shares_of, train_file, validation_file

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import OfflineSettings
    from sdpo.train.offline.session import OfflineSession


def check(settings: "OfflineSettings", job: "Job") -> list[str]:
    """Check all that can be checked without loading a model, including each line of each file.

    Returns lines on the rows of the data, against those of a step. Raises SdpoError.
    """
    job.find_oracle(settings.model, settings.style, settings.style_file)  # refuses a style that its world has not
    check_training(settings, job.name)
    makers = {train_file(settings): made_with(settings, "train_jsonl", job)}
    by_words = settings.learn_from == "complaints" and settings.dry_run
    counts = [count_rows(path, makers.get(path, ""), settings.holdout, by_words) for path in shares_of(settings)]
    if settings.eval_n:
        for _ in read_interactions(validation_file(settings), made_with(settings, "val_jsonl", job)):
            pass
    check_enough(settings, sum(count.training for count in counts))
    check_outside(settings, "model")
    return describe(settings, counts) if settings.dry_run else []


def run(settings: "OfflineSettings", job: "Job") -> int:
    """Train, and return the exit code. Raises what `run_session` raises."""

    def start() -> "OfflineSession":
        from sdpo.train.offline.session import OfflineSession

        return OfflineSession(settings, job)

    return run_session(settings, job, start)
