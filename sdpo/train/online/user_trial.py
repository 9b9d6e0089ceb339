"""The simulated user is tried before it teaches: once per run, before the first step."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from accelerate.utils import gather_object

from sdpo.english.probes import probes as english_probes
from sdpo.errors import SdpoError
from sdpo.runtime.run_directory import RunDirectory
from sdpo.train.online.trainer import OnlineTrainer
from sdpo.users.simulator import FollowUp
from sdpo.users.trial import Probe, Trial, choose_probes

if TYPE_CHECKING:
    from sdpo.settings import OnlineSettings
    from sdpo.users.oracle import Oracle

FILE = "user-trial.json"
TRIAL_ROUND = 1 << 21  # beyond the rounds of training and of validation


def try_user(
    trainer: OnlineTrainer,
    oracle: "Oracle | None",
    settings: "OnlineSettings",
    run: RunDirectory,
    after_asking: Callable[[], None] = lambda: None,
) -> None:
    """Try the user of the run, unless there is none, the run has done so already, or USER_TRIAL=off.

    The main process asks, through the user's client and reply cache, and waits for a user who does not respond as a
    step does; every process calls this and gets the same result, and calls `after_asking` once the user has replied.
    Raises SdpoError if the user fails and USER_TRIAL=stop.
    """
    if trainer.user is None or settings.user_trial == "off":
        return
    main = trainer.accelerator.is_main_process
    failures = gather_object([(run.read_json(FILE) or {}).get("failures") if main else None])[0]
    if failures is None:
        probes = choose_user_probes(oracle, settings.seed)
        follow_ups = _ask(trainer, probes)
        after_asking()
        if main:
            reads = oracle.is_satisfied if oracle is not None and oracle.reads_any_user else None
            failures = _report(Trial(probes, follow_ups, reads), run)
        failures = gather_object([failures])[0]
    if failures:
        message = _message(failures, settings, run)
        if settings.user_trial == "stop":
            raise SdpoError(message)
        if main:
            print(f"warning: {message}", flush=True)


def choose_user_probes(oracle: "Oracle | None", seed: int) -> list[Probe]:
    """Return the probes for the oracle's style; without an oracle English ones, and nobody knows whether they fit."""
    if oracle is None:
        return choose_probes(english_probes(), None, seed)
    return choose_probes(oracle.probes(seed), oracle.fits, seed)


def _ask(trainer: OnlineTrainer, probes: list[Probe]) -> list[FollowUp]:
    """Return the user's reactions on the main process, nothing on the others."""
    user = trainer.user
    assert user is not None

    def ask() -> list[FollowUp]:
        if not trainer.accelerator.is_main_process:
            return []
        user.round = TRIAL_ROUND
        return user.react([probe.prompt for probe in probes], [probe.answer for probe in probes])

    asked: Callable[[], list[FollowUp]] = ask
    return trainer.collect_follow_ups(asked, asked)


def _report(trial: Trial, run: RunDirectory) -> list[str]:
    """Write and print what the trial shows, with examples if the user failed; return the failures."""
    run.write_json(FILE, trial.as_json())
    print(trial.table(), flush=True)
    failures = trial.failures()
    if failures:
        print(f"three of its replies:\n{trial.examples()}", flush=True)
    return failures


def _message(failures: list[str], settings: "OnlineSettings", run: RunDirectory) -> str:
    return (
        f"the simulated user ({settings.user_model_name_or_path}) failed its trial: {'; '.join(failures)}. "
        f"{run.path / FILE} has its replies. Choose another USER_MODEL_NAME_OR_PATH (`rule` needs no model, for "
        "styles that a rule can check) and another RUN_ID, or set USER_TRIAL=warn to train with this one."
    )
