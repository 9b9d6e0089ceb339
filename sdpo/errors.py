"""What can go wrong, in words that say what to do next.

Every error a user can cause is an `SdpoError`: jobs print it in one line, without a traceback, and
end with its `exit_code`. Anything else that escapes is a fault of ours and keeps its traceback.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class SdpoError(Exception):
    """Something the user can mend. The message says what happened, where, and what to do next."""

    exit_code = 1


class SettingError(SdpoError):
    """A setting has a name or a value that cannot be used."""

    exit_code = 2


class RecordError(SdpoError):
    """A data file holds something that is not the record it should be."""


class ServerError(SdpoError):
    """A model behind HTTP could not be asked, or not in time."""

    exit_code = 3


class SimulatorUnavailable(ServerError):
    """The simulated user stayed away; the run was saved and can be continued."""

    exit_code = 4


class BudgetReached(SdpoError):
    """The next request could pass MAX_COST; the run was saved and can be continued."""

    exit_code = 5


class RunStopped(SdpoError):
    """The run was asked to stop while it waited; it was saved and can be continued."""

    exit_code = 143  # what a shell reports for a process that ended on SIGTERM


class LossNotFinite(SdpoError):
    """The loss became NaN or infinite; `rows` are the interactions where it did."""

    def __init__(self, step: int, rows: list[dict]) -> None:
        super().__init__(f"the loss of step {step} is not a finite number")
        self.step, self.rows = step, rows


class GuardStopped(SdpoError):
    """The guard saw the policy collapse; the run is over and its best checkpoint kept."""

    exit_code = 6


class RunError(SdpoError):
    """A run directory cannot be used as asked."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean X?` for the known name closest to `name`, or an empty string."""
    by_folded = {candidate.lower(): candidate for candidate in known}
    matches = get_close_matches(name.lower(), by_folded, n=1, cutoff=0.5)
    return f" Did you mean {by_folded[matches[0]]}?" if matches else ""


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return the error's message on one line of at most `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
