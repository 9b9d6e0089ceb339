"""How a process was started: for the records of a run, an evaluation and a night."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from sdpo.llm.address import without_credentials

PACKAGES = ["torch", "transformers", "trl", "accelerate", "datasets", "peft", "bitsandbytes", "wandb"]
PACKAGES += ["openai", "anthropic"]


def provenance() -> dict:
    """Return when, where and how this process was started: time, working directory, command, commit, versions.

    No environment variables.
    """
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "folder": str(Path.cwd()),
        "command": [Path(sys.argv[0]).name, *map(without_credentials, sys.argv[1:])],
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _commit() -> str | None:
    """Return the project's commit, with "-changed" if files differ from it. In an image it comes from SDPO_COMMIT."""
    if commit := os.environ.get("SDPO_COMMIT"):
        return commit
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # an installed package, perhaps inside the repository of another project
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=-changed", "--exclude=*"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None
