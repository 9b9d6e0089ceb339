"""Errors, with messages that tell the user what to do next.

Every error that a user can cause is an `SdpoError`: jobs print it on one line, without a traceback, and
exit with its `exit_code`. Any other exception is a bug and keeps its traceback.

The exit codes of a job: 0 done, 1 what has no code of its own, 2 a setting, 3 a server, 4 the simulator is gone,
5 the budget, 6 the guard stopped the run, 7 an evaluation that releases no checkpoint or a promotion that no evaluation
released, 130 Ctrl-C, 143 a signal. `make` prints the code of its job and itself exits with 2.
"""

import os
from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path

# The exit code of an audit whose verdicts are all stop, so that `make audit && make train-...` does not train.
EXIT_STOP = 6
# An evaluation that finds no checkpoint to release exits with it. That is a result, and no error.
KEEP_EXIT_CODE = 7


class SdpoError(Exception):
    """An error that the user can fix. The message states what happened, where, and what to do next."""

    exit_code = 1


class SettingError(SdpoError):
    """A setting has an unknown name or an invalid value."""

    exit_code = 2


class RecordError(SdpoError):
    """A data file is missing or contains an invalid record. `missing` is the path of a file that does not exist."""

    def __init__(self, message: str, missing: Path | None = None) -> None:
        super().__init__(message)
        self.missing = missing


class ServerError(SdpoError):
    """A request to a model behind HTTP failed or timed out."""

    exit_code = 3


class SimulatorUnavailable(ServerError):
    """The simulated user does not respond. The run was saved and can be resumed."""

    exit_code = 4


class UnusableReplies(SdpoError):
    """Most of the first replies of a simulated user, or of the first verdicts of a judge, cannot be used."""


class UserFailed(SdpoError):
    """A function that plays the user raised an exception, or returned something else than follow-ups."""


class UploadFailed(SdpoError):
    """The hub did not take the files. The run itself is complete."""

    exit_code = 3


class BudgetReached(SdpoError):
    """The next request could exceed MAX_COST. The run was saved and can be resumed."""

    exit_code = 5


class RunStopped(SdpoError):
    """The run got a signal to stop while it waited. It was saved and can be resumed."""

    exit_code = 143  # what a shell reports for a process that SIGTERM ended


class LossNotFinite(SdpoError):
    """The loss became NaN or infinite; `rows` are the interactions for which it did."""

    def __init__(self, step: int, rows: list[dict]) -> None:
        super().__init__(f"the loss of step {step} is not a finite number")
        self.step, self.rows = step, rows


class GuardStopped(SdpoError):
    """The guard detected policy collapse. The run has ended and its best checkpoint is kept."""

    exit_code = 6


class OutOfMemory(SdpoError):
    """The GPU, or the machine, has too little memory for what the settings ask for."""


class RunError(SdpoError):
    """A run directory cannot be used as requested."""


class AtWork(RunError):
    """Another process is at work there; what it writes is left alone."""


# A checkout has a Makefile; an installed package has the `sdpo` command alone.
_PROGRAM = "make" if (Path(__file__).parents[1] / "Makefile").is_file() else "sdpo"


def command(words: str) -> str:
    """Return the command line that runs a job, for messages: with make in a checkout, else with sdpo."""
    return f"make {words.replace('$', '$$')}" if _PROGRAM == "make" else f"{_PROGRAM} {words}"


def help_command(job: str) -> str:
    """Return the command line that lists a job's settings; make's own --help would take the flag for itself."""
    return in_environment(f"sdpo {job} --help")


def in_environment(words: str) -> str:
    """Return a command line of the environment that the jobs run in: a checkout's is .venv, which nobody activates."""
    return f"{'.venv/bin/' if _PROGRAM == 'make' else ''}{words}"


def pip_install(package: str) -> str:
    """Return the command line that installs a package for the jobs."""
    return in_environment(f"pip install '{package}'")


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Return " Did you mean X?" for the known name closest to `name`, or an empty string if none is close."""
    by_folded = {candidate.lower(): candidate for candidate in known}
    matches = get_close_matches(name.lower(), by_folded, n=1, cutoff=cutoff)
    return f" Did you mean {by_folded[matches[0]]}?" if matches else ""


def nearest_first(name: str, known: Iterable[str], limit: int = 5) -> list[str]:
    """Return at most `limit` of the known names, those most like `name` first."""
    matcher = SequenceMatcher(b=name.lower())

    def likeness(candidate: str) -> float:
        matcher.set_seq1(candidate.lower())
        return matcher.ratio()

    return sorted(sorted(known), key=likeness, reverse=True)[:limit]


def instead_of(path: Path, folders: bool = False) -> str:
    """Return a sentence, after a blank, on what is there instead of a path that does not exist, nearest names first.

    With `folders` these are folders alone.
    """
    folder = next((parent for parent in path.parents if parent.is_dir()), None)
    if folder is None or not os.access(folder, os.R_OK | os.X_OK):
        return ""
    missing = path.relative_to(folder).parts[0]
    there = "the current folder" if folder == Path() else str(folder)
    entries = [
        entry.name for entry in folder.iterdir() if not entry.name.startswith(".") and (not folders or entry.is_dir())
    ]
    twins = [name for name in entries if Path(name).stem == Path(missing).stem]  # .json for .jsonl
    alike = [name for name in entries if Path(name).suffix == Path(missing).suffix != ""]
    names = nearest_first(missing, twins or alike or entries)
    if not names:
        found = f"{there} is empty"
    elif near := [name for name in names if get_close_matches(missing.lower(), [name.lower()], 1, 0.6)]:
        found = f"in {there} the nearest names are {', '.join(near)}"
        if len(near) == 1:
            found = f"in {there} the nearest name is {near[0]}"
    else:
        more = f" and {len(entries) - len(names)} more" if len(entries) > len(names) else ""
        found = f"in {there} there are {', '.join(names)}{more}"
    if folder == path.parent:
        return f" {found[0].upper()}{found[1:]}."
    return f" There is no {folder / missing}; {found}."


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return the error's message on one line of at most `limit` characters; its type if it has no message."""
    return on_one_line(str(error), limit) or type(error).__name__


def on_one_line(text: str, limit: int) -> str:
    """Return a text on one line of at most `limit` characters, without those that a terminal acts on.

    Others may have written the text: it may hold control sequences, or half a surrogate pair, which no file can hold.
    """
    text = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
