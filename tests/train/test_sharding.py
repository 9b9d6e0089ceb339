"""FSDP2 on a CPU, in one process: a policy that accelerate has wrapped trains as an unsharded one."""

import json
import subprocess
import sys

import pytest

from tests.worlds import environment


@pytest.fixture(scope="module")
def found():
    """Return what the worker found; it is a process of its own because a process group belongs to the process."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.sharded_worker"],
        env=environment() | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("embeddings", ["tied", "untied"])
def test_forward_passes_without_gradient_do_not_change_the_steps(found, embeddings):
    assert found[embeddings] == {"sharded": True, "differing": []}


def test_a_first_pass_with_the_adapter_disabled_does_not_break_the_backward_pass(found):
    assert found["adapter"]["gradients"] and found["adapter"]["weights"] > 0


def test_generation_knows_that_all_processes_have_to_run_as_many_passes(found):
    assert found["synced"] and found["synced_adapter"]
