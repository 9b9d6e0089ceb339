"""The example of the method in somebody's own training loop: it runs as it is shipped, and it learns."""

import re
import subprocess
import sys

import pytest

from tests.commands import ROOT
from tests.worlds import environment

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", [0, 1])
def test_the_example_teaches_the_preference(seed):
    done = subprocess.run(
        [sys.executable, "examples/own_trainer.py", "--seed", str(seed)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    shares = [float(share) for share in re.findall(r": ([\d.]+) of the answers", done.stdout)]
    assert len(shares) == 6 and shares[0] < 0.7 and min(shares[-2:]) > 0.85
