"""The Docker engine of this machine, for tests that skip where none answers, and the names of what they leave on it."""

import json
import os
import shutil
import subprocess

import pytest

from tests.worlds import PROJECT, environment

# This run's own, so that two of them on one engine leave each other alone.
NAME = f"sdpo-test-{os.getpid()}"
IMAGE = NAME
# The owner of what the containers write; they refuse to be root.
OWNER = os.getuid() or 1000


def succeeds(*command: str) -> bool:
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0


ENGINE = succeeds("docker", "info") and succeeds("docker", "compose", "version")
needs_compose = pytest.mark.skipif(not succeeds("docker", "compose", "version"), reason="needs Docker Compose")
needs_engine = pytest.mark.skipif(not ENGINE, reason="no Docker engine answers")


def run(*command: str, expect: int | None = 0, timeout: float = 3600, **variables: str) -> str:
    """Run a command in the project and return what it printed; the end of it is shown where its code differs."""
    done = subprocess.run(
        command, env=environment(**variables), cwd=PROJECT, timeout=timeout, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    tail = "\n".join(done.stdout.splitlines()[-40:])
    assert expect is None or done.returncode == expect, f"{command} ended with {done.returncode}\n{tail}"
    return done.stdout


def inspected(kind: str, name: str) -> dict:
    return json.loads(run("docker", kind, "inspect", name))[0]
