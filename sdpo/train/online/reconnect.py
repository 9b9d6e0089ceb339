"""When the simulated user does not respond: save the run, wait, then resume the step or end with an error."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback

from sdpo.errors import RunStopped, ServerError, SimulatorUnavailable, one_line
from sdpo.llm.server import check_health
from sdpo.train.online.sampling import User
from sdpo.train.record import BaseTrainer
from sdpo.users.simulator import SimulatedUser

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
REPORT_EVERY_SECONDS = 60.0
CHECKS_OF_OWN_SERVER = 3  # a busy server may miss one or two


@dataclass
class _Outage:
    """When an outage began and was last reported (time.monotonic), the next pause, and the failed health checks."""

    started: float
    reported: float
    pause: float
    failed_checks: int = 0


class RoundCallback(TrainerCallback):
    """Numbers the user's rounds by step: a step that is repeated after a crash asks for the same follow-ups."""

    def __init__(self, user: User) -> None:
        self.user = user

    def on_step_begin(self, args, state, control, **_) -> None:
        """Start the step's round."""
        self.user.round = state.global_step


class ReconnectCallback(RoundCallback):
    """Numbers the user's rounds by step, and waits for a user who stops responding.

    `seconds` is the longest wait in one step. `save` writes a checkpoint of the last finished step; `stopping` returns
    whether the run was asked to stop. A server that was `started_for_job` is not restarted by anyone, so the wait ends
    when it is down.
    """

    def __init__(
        self,
        trainer: BaseTrainer,
        user: SimulatedUser,
        url: str,
        seconds: float,
        save: Callable[[], None],
        stopping: Callable[[], bool],
        started_for_job: bool = False,
    ) -> None:
        super().__init__(user)
        self.trainer, self.url, self.seconds = trainer, url, seconds
        self.save, self.stopping, self.started_for_job = save, stopping, started_for_job
        self.random = RandomStates()
        self._outage: _Outage | None = None

    def on_step_begin(self, args, state, control, **_) -> None:
        """Start the step's round: after a crash the same step repeats its requests and finds the replies cached."""
        super().on_step_begin(args, state, control)
        self.random = RandomStates()
        self._outage = None

    def on_step_end(self, args, state, control, **_) -> None:
        """Keep the random states that the next step starts with, in case the user stops responding in an evaluation."""
        self.random = RandomStates()
        self._outage = None

    def wait(self, failure: SimulatorUnavailable) -> None:
        """Return when the user responds again. Raises the failure after `seconds`, RunStopped on a signal.

        Every process calls it and gets the same result: the main process checks the server, at short intervals, and
        shares the result with the others.
        """
        if self._outage is None:
            self._outage = self._begin_outage(failure)
        while True:
            status = self._check_server(self._outage) if self.trainer.accelerator.is_main_process else None
            status = gather_object([status])[0]
            if status == "responding":
                return
            if status == "stopped":
                raise RunStopped("stopped while waiting for the simulated user.")
            if status == "down":
                raise failure

    def _begin_outage(self, failure: SimulatorUnavailable) -> _Outage:
        now = time.monotonic()
        self.save()
        step = self.trainer.state.global_step
        saved = f"step {step} is saved" if step else "no step is finished yet"
        self._print(f"the simulated user does not respond: {one_line(failure, 400)}")
        self._print(f"{saved}; waiting up to {self.seconds:g} s (SIMULATOR_WAIT) for it to respond again")
        return _Outage(now, now, FIRST_PAUSE)

    def _check_server(self, outage: _Outage) -> Literal["responding", "waiting", "stopped", "down"]:
        """Pause, longer each time, and check the server; "down" means that there is no point in waiting longer."""
        left = outage.started + self.seconds - time.monotonic()
        if left <= 0:
            return "down"
        wake = time.monotonic() + min(outage.pause, left)
        outage.pause = min(2 * outage.pause, LONGEST_PAUSE)
        while time.monotonic() < wake:
            if self.stopping():
                return "stopped"
            time.sleep(0.1)
        seconds = time.monotonic() - outage.started
        try:
            check_health(self.url, timeout=5)
        except ServerError:
            outage.failed_checks += 1
            if self.started_for_job and outage.failed_checks == CHECKS_OF_OWN_SERVER:
                return "down"
            if time.monotonic() - outage.reported >= REPORT_EVERY_SECONDS:
                outage.reported = time.monotonic()
                self._print(f"still no response after {seconds:.0f} s")
            return "waiting"
        self._print(f"its server responds after {seconds:.0f} s: requesting the missing replies again")
        return "responding"

    def _print(self, text: str) -> None:
        if self.trainer.accelerator.is_main_process:
            print(text, flush=True)


class RandomStates:
    """torch's random states when this was made; a context manager that restores them for its duration.

    A checkpoint of the last finished step must hold the states from the start of the current step, not later ones.
    """

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
