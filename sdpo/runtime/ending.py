"""The end of every job: what came of it in one sentence, where to look at it, and the next command to run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdpo import errors
from sdpo.settings import as_words


def say(sentence: str, see: Mapping[str, Path] | None = None, then: str = "", why: str = "") -> None:
    """Print the sentence, the files to look at by what they are, and the next command with what it is for."""
    lines = [sentence, *(f"{name}: {path}" for name, path in (see or {}).items())]
    if then:
        lines.append(f"next: {then}" + (f"  ({why})" if why else ""))
    print("\n".join(lines), flush=True)


def command(job: str, **values: Any) -> str:
    """Return the command of a job with these settings; those that are None or False are left out."""
    given = as_words({name: value for name, value in values.items() if value not in (None, False)})
    return errors.command(" ".join([job, *given]))
