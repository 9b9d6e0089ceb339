"""The Docker engine of this machine, for tests that are skipped without one, and the names of the test containers."""

import json
import os
import shutil
import subprocess

import pytest

from tests.worlds import PROJECT, environment

# Different in each test run, so that two runs on one engine do not interfere.
NAME = f"sdpo-test-{os.getpid()}"
IMAGE = NAME
# The owner of the files that containers write. They do not run as root.
OWNER = os.getuid() or 1000


def succeeds(*command: str) -> bool:
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0


ENGINE = succeeds("docker", "info") and succeeds("docker", "compose", "version")
needs_compose = pytest.mark.skipif(not succeeds("docker", "compose", "version"), reason="needs Docker Compose")
needs_engine = pytest.mark.skipif(not ENGINE, reason="no Docker engine responds")


def run(*command: str, expect: int | None = 0, timeout: float = 3600, **variables: str) -> str:
    """Run a command in the project, check its exit code and return its output."""
    done = subprocess.run(
        command, env=environment(**variables), cwd=PROJECT, timeout=timeout, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    tail = "\n".join(done.stdout.splitlines()[-40:])
    assert expect is None or done.returncode == expect, f"{command} ended with {done.returncode}\n{tail}"
    return done.stdout


def inspected(kind: str, name: str) -> dict:
    return json.loads(run("docker", kind, "inspect", name))[0]
