"""The end of every job: what came of it in one sentence, where to look at it, and the next command to run."""

from collections.abc import Mapping
from pathlib import Path


def say(sentence: str, see: Mapping[str, Path] | None = None, then: str = "", why: str = "") -> None:
    """Print the sentence, the files to look at by what they are, and the next command with what it is for."""
    lines = [sentence, *(f"{name}: {path}" for name, path in (see or {}).items())]
    if then:
        lines.append(f"next: {then}" + (f"  ({why})" if why else ""))
    print("\n".join(lines), flush=True)
