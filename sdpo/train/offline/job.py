"""The offline training job: what it checks before anything is loaded, and how it runs.

Importing this is cheap; torch and its company are imported when the run starts.
"""

from typing import TYPE_CHECKING

from sdpo.errors import SettingError
from sdpo.text.records import read_interactions
from sdpo.train.job import check_training, run_session
from sdpo.train.offline.mixture import mix_of

if TYPE_CHECKING:
    from sdpo.runtime.launch import Job
    from sdpo.settings import OfflineSettings


def check(settings: "OfflineSettings", job: "Job") -> None:
    """Check whatever can be checked without loading a model: every line of every file. Raises SdpoError."""
    check_training(settings)
    if settings.train_jsonl is None:
        raise SettingError("TRAIN_JSONL is not set. Name an interactions file, such as prep-logs writes.")
    if settings.eval_n and settings.val_jsonl is None:
        raise SettingError("EVAL_N needs prompts to answer. Name a file of interactions in VAL_JSONL.")
    validation = [settings.val_jsonl] if settings.eval_n else []
    for path in (settings.train_jsonl, *mix_of(settings.mix), *validation):
        for _ in read_interactions(path, job.data_command):
            pass


def run(settings: "OfflineSettings", job: "Job") -> int:
    """Train, and return the exit code. Raises as `run_session` does."""

    def start():
        from sdpo.train.offline.session import OfflineSession

        return OfflineSession(settings, job)

    return run_session(settings, job, start)
