"""The offline training job: checks before anything is loaded, and the run.

Importing this module is cheap: torch and transformers are imported when the run starts.
"""

from typing import TYPE_CHECKING

from sdpo.text.records import read_interactions
from sdpo.train.job import check_outside, check_training, run_session
from sdpo.train.offline.mixture import mix_of, train_file, validation_file

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import OfflineSettings
    from sdpo.train.offline.session import OfflineSession


def check(settings: "OfflineSettings", job: "Job") -> None:
    """Check all that can be checked without loading a model, including each line of each file. Raises SdpoError."""
    job.find_oracle(settings.model, settings.style)  # refuses a style that its world has not
    check_training(settings)
    train = train_file(settings)
    validation = [validation_file(settings)] if settings.eval_n else []
    for path in (train, *mix_of(settings.mix), *validation):
        for _ in read_interactions(path, job.data_command):
            pass
    check_outside(settings, "model")


def run(settings: "OfflineSettings", job: "Job") -> int:
    """Train, and return the exit code. Raises what `run_session` raises."""

    def start() -> "OfflineSession":
        from sdpo.train.offline.session import OfflineSession

        return OfflineSession(settings, job)

    return run_session(settings, job, start)
