"""A job whose model and user are slow prints something all the time."""

import re
import subprocess
import sys
import time
from itertools import pairwise

import pytest

from tests.servers import Answer, FakeServer
from tests.worlds import environment, job_command, user_by_rule

pytestmark = pytest.mark.slow
SLOW, LIMIT = 12.0, 10.0  # seconds of a reply, and without a line in the output
# The job with its lines ten times as often, and a model each of whose forward passes takes longer than it should.
CODE = """
import sys, time
from sdpo.progress import display
display.FIRST, display.EVERY, display.TICK = 0.5, 1.0, 0.1
from transformers import Qwen3ForCausalLM
forward = Qwen3ForCausalLM.forward
def slow(*arguments, **named):
    time.sleep(0.1)
    return forward(*arguments, **named)
Qwen3ForCausalLM.forward = slow
from jobs.train_online_tldr import JOB
from sdpo.runtime.launch import main
raise SystemExit(main(JOB))
"""


def test_a_job_with_a_slow_model_and_a_slow_user_is_never_silent(tmp_path):
    rule = user_by_rule()

    def script(body: dict, number: int) -> Answer:
        time.sleep(SLOW if number == 1 else 0.0)
        return rule(body, number)

    with FakeServer(script) as server:
        command = job_command(server.url, tmp_path / "run", train_n=16, eval_n=8, save_steps=1, user_trial="off",
                              max_completion_tokens=16)  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-c", CODE, *command[3:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=environment(WANDB_MODE="disabled"), cwd=tmp_path,
        )  # fmt: skip
        lines = [(time.monotonic(), text.rstrip("\n")) for text in process.stdout]
        assert process.wait() == 0, lines[-10:]
    begin = next(index for index, (_, text) in enumerate(lines) if text.startswith("run directory"))
    gaps = [(later - earlier, text) for (earlier, _), (later, text) in pairwise(lines[begin:])]
    assert max(gaps)[0] < LIMIT, max(gaps)
    texts = "\n".join(text for _, text in lines)
    assert re.search(r"answers before training: 0 of 8 answers \(0 %\), .*; tokens of each: \d+ of 16", texts)
    assert re.search(r"training: 0 of 1 steps .*; generating: 0 of 16 answers; tokens of each: \d+ of 16", texts)
    assert re.search(r"training: 0 of 1 steps .*follow-ups of the user.*: \d+ of 16 replies", texts)
