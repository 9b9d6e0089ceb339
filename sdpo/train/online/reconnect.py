"""A run while its user is away: saved at once, continued when the user is back, ended in good order when not."""

import time
from collections.abc import Callable

import torch
from accelerate.utils import gather_object
from transformers import Trainer, TrainerCallback

from sdpo.errors import RunStopped, ServerError, SimulatorUnavailable, one_line
from sdpo.llm.server import check_health
from sdpo.users.simulator import SimulatedUser

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
REPORT_EVERY_SECONDS = 60.0
CHECKS_OF_OWN_SERVER = 3  # a busy server may be late once or twice


class ReconnectCallback(TrainerCallback):
    """Numbers the user's rounds by step, and waits for a user who went away in one.

    `save` writes a checkpoint of the last finished step, `stopping` says whether the run was asked to end.
    Where the server was started for this job (`ours`), nobody brings it back, and a dead one ends the wait.
    """

    def __init__(
        self,
        trainer: Trainer,
        user: SimulatedUser,
        address: str,
        seconds: float,
        save: Callable[[], None],
        stopping: Callable[[], bool],
        ours: bool = False,
    ) -> None:
        self.trainer, self.user, self.address, self.seconds = trainer, user, address, seconds
        self.save, self.stopping, self.ours = save, stopping, ours
        self.random = RandomStates()
        self._gone_since: float | None = None
        self._said = 0.0
        self._pause = FIRST_PAUSE
        self._missed = 0

    def on_step_begin(self, args, state, control, **_) -> None:
        """Begin the step's round: after a crash the same step asks the same again and finds it answered."""
        self.user.round = state.global_step
        self.random = RandomStates()
        self._gone_since = None

    def on_step_end(self, args, state, control, **_) -> None:
        """Keep the state that the next step begins with, should the user go away during an evaluation."""
        self.random = RandomStates()
        self._gone_since = None

    def wait(self, failure: SimulatorUnavailable) -> None:
        """Return when the user is back. Raises the failure where that takes too long, RunStopped on a signal.

        Every process calls it and goes the same way: the first one looks, and all hear of it at short intervals.
        """
        if self._gone_since is None:
            self._gone_since = self._said = time.monotonic()
            self._pause, self._missed = FIRST_PAUSE, 0
            self.save()
            step = self.trainer.state.global_step
            saved = f"step {step} is saved" if step else "no step is finished yet"
            self._say(f"the simulated user is away: {one_line(failure, 400)}")
            self._say(f"{saved}; waiting up to {self.seconds:g} s (SIMULATOR_WAIT) for it to come back")
        while True:
            found = gather_object([self._look() if self.trainer.accelerator.is_main_process else None])[0]
            if found == "back":
                return
            if found == "stopped":
                raise RunStopped("stopped while the simulated user was away.")
            if found == "gone":
                raise failure

    def _look(self) -> str:
        """Wait a little, longer each time, and say what there is: back, gone, stopped, or away."""
        left = self._gone_since + self.seconds - time.monotonic()
        if left <= 0:
            return "gone"
        wake = time.monotonic() + min(self._pause, left)
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        while time.monotonic() < wake:
            if self.stopping():
                return "stopped"
            time.sleep(0.1)
        seconds = time.monotonic() - self._gone_since
        try:
            check_health(self.address, timeout=5)
        except ServerError:
            self._missed += 1
            if self.ours and self._missed == CHECKS_OF_OWN_SERVER:
                return "gone"
            if time.monotonic() - self._said >= REPORT_EVERY_SECONDS:
                self._said = time.monotonic()
                self._say(f"still away after {seconds:.0f} s")
            return "away"
        self._say(f"its server answers after {seconds:.0f} s: asking again for what is missing")
        return "back"

    def _say(self, words: str) -> None:
        if self.trainer.accelerator.is_main_process:
            print(words, flush=True)


class RandomStates:
    """The random states at a step's beginning: a checkpoint of the step before must hold these, not later ones."""

    def __init__(self) -> None:
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None

    def __enter__(self) -> None:
        self._now = RandomStates()
        self._restore()

    def __exit__(self, *_: object) -> None:
        self._now._restore()

    def _restore(self) -> None:
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)
