"""The `sdpo` command: every job by its name, with its settings as flags or NAME=value words; `python -m jobs` too."""

import importlib
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import jobs
from jobs.plan import LISTED, plan
from sdpo.errors import SettingError, nearest
from sdpo.runtime.launch import Job
from sdpo.runtime.launch import main as run_job
from sdpo.settings.completion import SHELLS, Command, script

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Prepare data": (
        "prep-tldr", "prep-helpsteer", "prep-wildfeedback", "prep-wildchat", "prep-logs", "prep-english", "push-data",
    ),
    "Train": (
        "demo", "demo-real", "train-online-tldr", "train-online-helpsteer", "train-offline",
        "train-offline-wildfeedback", "train-offline-wildchat", "simulator", "plan",
    ),
    "Evaluate": ("eval", "eval-tldr", "eval-helpsteer", "report"),
    "See the signal": ("signal-analysis", "audit"),
    "Serve and learn": (
        "gateway", "gateway-key", "chat", "export-conversations", "forget", "learn", "promote", "canary", "rollback",
        "versions", "demo-loop",
    ),
    "Studies and checks": ("study", "study-real", "check-gpu"),
}  # fmt: skip
COMPLETION = "completion"
_USAGE = """usage: sdpo JOB [--setting value ...] [SETTING=value ...]

Self-distillation policy optimization from user interactions. A job lists its settings with: sdpo JOB --help
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job that the first argument names, and return its exit code."""
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        if command in ("-h", "--help", "help"):
            print(_help())
        elif command == "--version":
            print(f"sdpo {metadata.version('sdpo')}")
        elif command == COMPLETION:
            print(_completion(rest), end="")
        else:
            return plan(rest) if command == LISTED.name else run_job(find(command), rest)
    except SettingError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _program() -> str:
    """Return how this was started, for messages."""
    return "python -m jobs" if Path(sys.argv[0]).name == "__main__.py" else "sdpo"


def names() -> list[str]:
    """Return the names of all jobs, in the order of their groups; those of no group are last."""
    grouped = [name for group in GROUPS.values() for name in group]
    modules = [module.name.replace("_", "-") for module in pkgutil.iter_modules(jobs.__path__)]
    return [*grouped, *sorted({name for name in modules if not name.startswith("-")} - set(grouped))]


def find(name: str) -> Job:
    """Return the job of this name. Raises SettingError if there is none, with the most likely intended one."""
    if name not in names():
        guess = nearest(name, [*names(), COMPLETION])
        raise SettingError(f"{name!r} is not a job of sdpo.{guess} {_program()} --help lists all of them.")
    return LISTED if name == LISTED.name else importlib.import_module(f"jobs.{name.replace('-', '_')}").JOB


def _help() -> str:
    other = [name for name in names() if not any(name in group for group in GROUPS.values())]
    lines = [_USAGE]
    for title, group in {**GROUPS, **({"More": tuple(other)} if other else {})}.items():
        lines += [f"{title}:", *(f"  {name:27} {find(name).summary}" for name in group), ""]
    lines += ["Shell:", f"  {f'{COMPLETION} SHELL':27} print the completion for {', '.join(SHELLS)}"]
    lines += [f"  {'--version':27} print the version"]
    return "\n".join(lines)


def _completion(arguments: Sequence[str]) -> str:
    """Return the completion script of a shell. Raises SettingError unless the one argument is a supported shell."""
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        given = f" There is none for {arguments[0]!r}." if arguments and arguments[0] not in SHELLS else ""
        raise SettingError(f"completion is printed for one of {', '.join(SHELLS)}, as in: sdpo completion bash.{given}")
    found = [find(name) for name in names()]
    return script(arguments[0], [Command(job.name, job.summary, job.settings) for job in found])


if __name__ == "__main__":
    raise SystemExit(main())
