"""When a gated teacher is refreshed: on evidence from the users themselves, and not before.

The idea is that of arXiv 2606.03532: between refreshes the teacher stands still, so that the policy cannot drag it
along; it is refreshed only where the users' reactions became better and the answers are as long as they were.
"""

from collections.abc import Callable
from statistics import fmean

from transformers import Trainer, TrainerCallback

from sdpo.method.teacher import Teacher
from sdpo.runtime.run_directory import RunDirectory

WINDOW = 10  # steps that are looked at together
REMAINING_SHARE = 0.5  # what may be left of the dissatisfied users that there were at the last refresh
INCREASE = 0.1  # by how much their share must have grown to say that users want something else now
LENGTH_RANGE = (0.5, 2.0)  # how long answers may be, against those of the first window


class RefreshCriterion:
    """Says after each step whether the teacher should be refreshed now.

    The users who are left dissatisfied are what counts, so that there are ever fewer refreshes as a taste is learned,
    and none for chance once it is: each asks for fewer of them than the last.
    """

    def __init__(self) -> None:
        self._window: list[tuple[float, float]] = []
        self._dissatisfied: float | None = None
        self._length = 0.0

    def observe(self, satisfied: float, length: float) -> bool:
        """Take in a step's share of satisfied users and mean answer length in tokens."""
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
    """Refreshes the teacher on evidence.

    It goes behind the MetricsCallback, whose `row` it reads, and before that one's on_save.
    """

    def __init__(self, run: RunDirectory, trainer: Trainer, teacher: Teacher, row: Callable[[], dict]) -> None:
        self.run, self.trainer, self.teacher, self.row = run, trainer, teacher, row
        self.evidence = RefreshCriterion()

    def on_train_begin(self, args, state, control, **_) -> None:
        """Go on from what an earlier part of the run saw; its refreshes are in the checkpoint's teacher."""
        for row in self.run.read_rows("metrics.jsonl"):
            if row["step"] <= state.global_step:
                self.evidence.observe(row["satisfied"], row["completion_tokens"])

    def on_step_end(self, args, state, control, **_) -> None:
        """Refresh, or not; all processes see the same row."""
        row = self.row()
        if self.evidence.observe(row["satisfied"], row["completion_tokens"]):
            self.teacher.refresh()
            if self.trainer.accelerator.is_main_process:
                print(f"teacher refreshed after step {state.global_step}: its users are happier", flush=True)
