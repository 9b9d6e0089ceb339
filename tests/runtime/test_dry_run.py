"""A dry run prints the command that would run, which itself must run."""

import subprocess
import sys

import pytest

from tests.commands import ROOT, clean_environment


@pytest.mark.parametrize("flag", [["--dry-run"], ["--dry-run", "1"], ["--dry-run=1"]])
@pytest.mark.parametrize("first", [True, False])
def test_the_printed_command_is_the_given_one_without_the_dry_run(flag, first):
    others = ["--tiny", "--seed", "1"]
    given = [*flag, *others] if first else [*others, *flag]
    line = [sys.executable, "-m", "jobs.report", *given]
    done = subprocess.run(line, cwd=ROOT, env=clean_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("-m jobs.report --tiny --seed 1")
