"""When a gated teacher is refreshed with the policy's weights: once the users' follow-ups show an improvement.

The idea is from arXiv 2606.03532: between refreshes the teacher is fixed, so that it cannot drift with the policy. It
is refreshed only when users have become more satisfied and answers have kept their length.
"""

from collections.abc import Callable
from statistics import fmean

from transformers import Trainer, TrainerCallback

from sdpo.method.teacher import Teacher
from sdpo.runtime.run_directory import RunDirectory

WINDOW = 10  # steps per window
REMAINING_SHARE = 0.5  # the dissatisfied share must be at most this fraction of that at the last refresh
INCREASE = 0.1  # growth of the dissatisfied share which means that users now want something else
LENGTH_RANGE = (0.5, 2.0)  # allowed mean answer length, relative to that of the first window


class RefreshCriterion:
    """Decides after each step whether to refresh the teacher.

    The criterion is the share of dissatisfied users, and each refresh requires a smaller share than the one before: so
    refreshes become rarer as a style is learned, and none happens by chance once it is.
    """

    def __init__(self) -> None:
        self._window: list[tuple[float, float]] = []
        self._dissatisfied: float | None = None
        self._length = 0.0

    def observe(self, satisfied: float, length: float) -> bool:
        """Add a step's share of satisfied users and mean answer length in tokens; return whether to refresh."""
        self._window.append((1 - satisfied, length))
        if len(self._window) < WINDOW:
            return False
        dissatisfied, length = (fmean(column) for column in zip(*self._window, strict=True))
        self._window.clear()
        if self._dissatisfied is None:
            self._dissatisfied, self._length = dissatisfied, length
            return False
        before, (low, high) = self._dissatisfied, LENGTH_RANGE
        better = (
            dissatisfied < before and dissatisfied <= REMAINING_SHARE * before and low <= length / self._length <= high
        )
        if better or dissatisfied > before + INCREASE:
            self._dissatisfied = dissatisfied
        return better


class TeacherRefreshCallback(TrainerCallback):
    """Refreshes the teacher when RefreshCriterion says so.

    Add it after the MetricsCallback, whose `row` it reads. A step's checkpoint is saved after the refresh.
    """

    def __init__(self, run: RunDirectory, trainer: Trainer, teacher: Teacher, row: Callable[[], dict]) -> None:
        self.run, self.trainer, self.teacher, self.row = run, trainer, teacher, row
        self.criterion = RefreshCriterion()

    def on_train_begin(self, args, state, control, **_) -> None:
        """Replay the metrics of a resumed run; its earlier refreshes are in the checkpoint's teacher."""
        for row in self.run.read_rows("metrics.jsonl"):
            if row["step"] <= state.global_step:
                self.criterion.observe(row["satisfied"], row["completion_tokens"])

    def on_step_end(self, args, state, control, **_) -> None:
        """Refresh the teacher if the criterion is met; all processes see the same row."""
        row = self.row()
        if self.criterion.observe(row["satisfied"], row["completion_tokens"]):
            self.teacher.refresh()
            if self.trainer.accelerator.is_main_process:
                print(f"teacher refreshed after step {state.global_step}: users are more satisfied", flush=True)
