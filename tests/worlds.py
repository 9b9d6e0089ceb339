"""The tiny world for tests: a user behind real HTTP that follows the oracle's rule, and jobs as subprocesses."""

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random

from jobs.audit import JOB
from sdpo.settings.resolve import resolve
from sdpo.signal import audit
from sdpo.text.prompts import USER_TURN
from sdpo.tiny import language, oracle
from sdpo.tiny.users import OracleUser
from tests import forks
from tests.servers import Answer, prompt_of

PROJECT = Path(__file__).parents[1]
_EXCHANGE = re.compile(re.escape(USER_TURN).replace(r"\{prompt\}", "(.*)").replace(r"\{completion\}", "(.*)"), re.S)


def user_by_rule(style: str = "no_emojis"):
    """Return a script for FakeServer that gives the same follow-up for the same exchange every time."""
    wanted = oracle.wants_of(style)

    def script(body: dict, number: int) -> Answer:
        text = prompt_of(body)
        completion = _EXCHANGE.fullmatch(text)[2]
        user = OracleUser(wanted)
        user.rng = Random(hashlib.sha256(text.encode()).digest())
        return Answer(user.react([""], [completion])[0].text)

    return script


SMALL = {
    "style": "no_emojis", "train_n": 96, "bs": 16, "save_steps": 2, "log_steps": 2, "eval_n": 32,
    "eval_batch_size": 32, "seed": 7, "simulator_wait": 1,
}  # fmt: skip


def job_command(url: str | None, out: Path, job: str = "train_online_tldr", **settings) -> list[str]:
    """Return the command line of a tiny online job that writes to `out` and uses the server at `url`, if given."""
    given = SMALL | ({"simulator_url": url} if url else {}) | {"output_dir": out} | settings
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    return [sys.executable, "-m", f"jobs.{job}", "--tiny", *flags]


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment with these variables and the project on PYTHONPATH."""
    return os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"} | variables


def run_job(url: str | None, out: Path, expect: int = 0, **settings) -> subprocess.CompletedProcess:
    """Run the job to its end and check its exit code. A failure shows the last lines of its output."""
    done = forks.run(job_command(url, out, **settings), env=environment(), timeout=300, cwd=out.parent)
    tail = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
    assert done.returncode == expect, f"exit {done.returncode}, expected {expect}\n{tail}"
    return done


def run_audit(out: Path, *flags: str) -> tuple[list[dict], int]:
    """Return the candidates of an audit with these flags, and the job's exit code."""
    settings = resolve(JOB.settings, ["--tiny", *flags], job=JOB.name, defaults=JOB.defaults, tiny=JOB.tiny)
    settings = dataclasses.replace(settings, output_dir=out)
    audit.check(settings, JOB)
    code = audit.run(settings, JOB)
    return json.loads((out / audit.RESULT).read_text("utf-8"))["candidates"], code


def rows_of(path: Path) -> list[dict]:
    """Return the rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write_replay(path: Path, count: int) -> Path:
    """Write a replay file: answers in the language with the follow-ups of a user who wants no emojis."""
    user, rng = OracleUser({"emoji": False}, 1), Random(5)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            post = language.sample_post(rng)
            answer = language.write_answer(rng, post, language.sample_style(rng))
            follow_up = user.react([post.text], [answer])[0].text
            file.write(json.dumps({"prompt": post.text, "completion": answer, "follow_up": follow_up}) + "\n")
    return path


CURVE = ("interactions", "loss", "signal", "signal_size", "entropy", "usable", "completion_tokens")


def curve(run: Path) -> list[list[float]]:
    """Return the metrics of each step of a run, without times and memory."""
    return [[row[name] for name in CURVE] for row in rows_of(run / "metrics.jsonl")]
