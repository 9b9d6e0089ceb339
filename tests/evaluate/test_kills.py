"""An evaluation that is killed repeatedly ends with the same results and pays for no reply twice."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from sdpo.tiny import MODEL_DIR
from tests.evaluate.test_evaluation import served, verdict_by
from tests.evaluations import DONE, EvaluationProcesses, add_checkpoint, arguments, make_run, read
from tests.servers import FakeServer, until

pytestmark = pytest.mark.slow

KILLS, CONCURRENCY = 10, 4
TABLES = ("eval.csv", "release.json", "pairs.html")


def length(prompt: str, most: int) -> str:
    return "x" * (5 + sum(map(ord, prompt)) * most % 40)


MODELS = {
    str(MODEL_DIR): lambda prompt: length(prompt, 3),
    "checkpoint-3": lambda prompt: length(prompt, 7),
    "checkpoint-6": lambda prompt: length(prompt, 11),
}


def delayed(script):
    """The same answers, each 0.03 s later, so that a kill can hit the evaluation in the middle."""

    def slow(body, number):
        time.sleep(0.03)
        return script(body, number)

    return slow


class LostReplies:
    """Compares the requests that a server got with the replies in a cache file; `total` counts the lost ones."""

    def __init__(self, server: FakeServer, cache: Path) -> None:
        self.server, self.cache, self.total, self.requests_before, self.replies_before = server, cache, 0, 0, 0

    def count(self) -> int:
        """Return how many requests since the last call have no reply in the cache."""
        requests = len(self.server.bodies)
        replies = self.cache.read_bytes().count(b"\n") if self.cache.exists() else 0
        lost = (requests - self.requests_before) - (replies - self.replies_before)
        self.requests_before, self.replies_before = requests, replies
        self.total += lost
        return lost


def test_after_ten_kills_the_tables_are_the_same_and_no_cached_reply_is_requested_again(tmp_path):
    uninterrupted, killed = (make_run(tmp_path / name / "run") for name in ("uninterrupted", "killed"))
    for run in (uninterrupted, killed):
        add_checkpoint(run, 3, noise=0.01)
        add_checkpoint(run, 6, noise=0.01)
    models, judge = FakeServer(delayed(served(MODELS))), FakeServer(delayed(verdict_by(len)))
    processes = EvaluationProcesses(tmp_path)
    with models, judge:
        given = {"eval_n": 24, "concurrency": CONCURRENCY, "judge_model": "oracle somebody"}
        given |= {"answer_url": models.url, "judge_url": judge.url}
        processes.start(arguments(uninterrupted, **given))
        assert processes.wait() in DONE, processes.output.read_text()
        needed = {"models": len(models.bodies), "judge": len(judge.bodies)}
        assert needed["models"] == 3 * 24 and needed["judge"] > 60
        models.bodies.clear(), judge.bodies.clear()

        folder = killed / "eval"
        losses = [LostReplies(models, folder / "served.jsonl"), LostReplies(judge, folder / "replies-somebody.jsonl")]
        moments = sorted(random.Random(0).sample(range(1, sum(needed.values())), KILLS))
        for moment in moments:
            child = processes.start(arguments(killed, **given))
            assert until(lambda moment=moment: len(models.bodies) + len(judge.bodies) >= moment, 300)
            os.kill(child, signal.SIGKILL)
            assert processes.wait() == -signal.SIGKILL and not read(killed)
            assert until(lambda: models._now == judge._now == 0)
            assert sum(loss.count() for loss in losses) <= CONCURRENCY
        processes.start(arguments(killed, **given))
        assert processes.wait() in DONE, processes.output.read_text()
    lost = [loss.total for loss in losses]
    assert len(models.bodies) == needed["models"] + lost[0] and len(judge.bodies) == needed["judge"] + lost[1]
    assert read(killed)["rows"] == read(uninterrupted)["rows"]
    assert read(killed)["agreement"] == read(uninterrupted)["agreement"]
    for name in TABLES:
        assert (folder / name).read_bytes() == (uninterrupted / "eval" / name).read_bytes()
    assert not list(folder.glob(".*.png")) and not list(folder.glob(".eval*"))
