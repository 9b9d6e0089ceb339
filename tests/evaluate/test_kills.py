"""An evaluation that is killed again and again comes to the same end, and pays for nothing twice."""

import os
import random
import signal
import time
from pathlib import Path

from sdpo.tiny import MODEL_DIR
from tests.evaluate.test_evaluation import served, verdict_by
from tests.evaluations import Nursery, add_checkpoint, arguments, make_run, read
from tests.servers import FakeServer, until

KILLS, CONCURRENCY = 10, 4
TABLES = ("eval.csv", "pairs.html")


def length(prompt: str, most: int) -> str:
    return "x" * (5 + sum(map(ord, prompt)) * most % 40)


MODELS = {
    str(MODEL_DIR): lambda prompt: length(prompt, 3),
    "checkpoint-3": lambda prompt: length(prompt, 7),
    "checkpoint-6": lambda prompt: length(prompt, 11),
}


def slowly(script):
    """The same answers, a little later each: so that there is a middle to be killed in."""

    def late(body, number):
        time.sleep(0.03)
        return script(body, number)

    return late


class Account:
    """What a server was asked, against the replies that are kept in a file."""

    def __init__(self, server: FakeServer, kept: Path) -> None:
        self.server, self.kept, self.lost, self.asked_before, self.kept_before = server, kept, 0, 0, 0

    def settle(self) -> int:
        """Return how many calls since the last time left no reply behind."""
        asked = len(self.server.bodies)
        lines = self.kept.read_bytes().count(b"\n") if self.kept.exists() else 0
        lost = (asked - self.asked_before) - (lines - self.kept_before)
        self.asked_before, self.kept_before = asked, lines
        self.lost += lost
        return lost


def test_killed_ten_times_the_tables_are_the_same_and_no_recorded_reply_is_asked_again(tmp_path):
    whole, killed = (make_run(tmp_path / name / "run") for name in ("whole", "killed"))
    for run in (whole, killed):
        add_checkpoint(run, 3, noise=0.01)
        add_checkpoint(run, 6, noise=0.01)
    models, judge = FakeServer(slowly(served(MODELS))), FakeServer(slowly(verdict_by(len)))
    with models, judge, Nursery(tmp_path) as nursery:
        given = {"eval_n": 24, "concurrency": CONCURRENCY, "judge_model": "oracle somebody"}
        given |= {"answer_url": models.url, "judge_url": judge.url}
        nursery.start(arguments(whole, **given))
        assert nursery.wait() == 0, nursery.output.read_text()
        needed = {"models": len(models.bodies), "judge": len(judge.bodies)}
        assert needed["models"] == 3 * 24 and needed["judge"] > 60
        models.bodies.clear(), judge.bodies.clear()

        folder = killed / "eval"
        accounts = [Account(models, folder / "served.jsonl"), Account(judge, folder / "replies-somebody.jsonl")]
        moments = sorted(random.Random(0).sample(range(1, sum(needed.values())), KILLS))
        for moment in moments:
            child = nursery.start(arguments(killed, **given))
            assert until(lambda moment=moment: len(models.bodies) + len(judge.bodies) >= moment, 300)
            os.kill(child, signal.SIGKILL)
            assert nursery.wait() == -signal.SIGKILL and not read(killed)
            assert until(lambda: models._now == judge._now == 0)
            assert sum(account.settle() for account in accounts) <= CONCURRENCY
        nursery.start(arguments(killed, **given))
        assert nursery.wait() == 0, nursery.output.read_text()
    lost = [account.lost for account in accounts]
    assert len(models.bodies) == needed["models"] + lost[0] and len(judge.bodies) == needed["judge"] + lost[1]
    assert read(killed)["rows"] == read(whole)["rows"] and read(killed)["agreement"] == read(whole)["agreement"]
    for name in TABLES:
        assert (folder / name).read_bytes() == (whole / "eval" / name).read_bytes()
    assert not list(folder.glob(".*.png")) and not list(folder.glob(".eval*"))
