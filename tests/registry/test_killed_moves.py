"""Moves of the live pointer that are killed at random moments: never half a version, and the same end."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from sdpo.registry import versions
from sdpo.registry.history import read_moves
from sdpo.registry.live import read_live
from tests.registries import FakeFolders, FakeVllm, add, weights_in, write_adapter
from tests.worlds import environment

# Moves that are killed, with each kind of server; more by hand: SDPO_TEST_KILLS=200.
KILLS = int(os.environ.get("SDPO_TEST_KILLS", "10"))
# A process that has everything loaded and begins a move, in a child of its own, for each line that it reads.
MOVER = """
import os, sys
from pathlib import Path
from sdpo.registry import moves
from sdpo.settings import PromoteSettings
import httpx
registry, url = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
for line in sys.stdin:
    action, name = line.split()
    child = os.fork()
    if not child:
        given = PromoteSettings(registry=registry, upstream=url, unload_after=0.05)
        if action == "promote":
            moves.promote(given, name)
        else:
            moves.rollback(given, name)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Mover:
    """Begins moves, and kills them if it is asked to."""

    def __init__(self, registry: Path, url: str) -> None:
        command = [sys.executable, "-c", MOVER, str(registry), url]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=environment(), stdin=pipe, stdout=pipe, text=True)
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        while (line := self.process.stdout.readline().strip()).startswith("waiting"):
            pass
        return line

    def move(self, action: str, name: str, kill_after: float | None = None) -> int:
        """Return the exit code of a move, -9 if it was killed."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{action} {name}\n")
        self.process.stdin.flush()
        child = int(self._line())
        if kill_after is not None:
            time.sleep(kill_after)
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        return int(self._line())

    def close(self) -> None:
        self.process.communicate()


class Watcher(threading.Thread):
    """Looks all the time at what is live, as a gateway does for each request; `broken` are the times it was not whole.

    `whole` says whether the server can answer as a model.
    """

    def __init__(self, registry: Path, whole) -> None:
        super().__init__(daemon=True)
        self.registry, self.whole, self.looks = registry, whole, 0
        self.broken: list[str] = []
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            live = read_live(self.registry)
            well = self.whole(live.model) and (live.version is None or versions.read(self.registry, live.version))
            if not well and read_live(self.registry) == live:  # else it moved on meanwhile, and that was unloaded
                self.broken.append(str(live))
            self.looks += 1
            time.sleep(0.005)


@contextmanager
def watched(registry: Path, whole) -> Iterator[Watcher]:
    watcher = Watcher(registry, whole)
    watcher.start()
    try:
        yield watcher
    finally:
        watcher.ended.set()
        watcher.join()


@pytest.mark.slow
@pytest.mark.parametrize("server_of", [FakeVllm, FakeFolders], ids=["vllm", "folders"])
def test_a_killed_promotion_or_rollback_leaves_what_answers_and_ends_the_same_when_it_is_repeated(tmp_path, server_of):
    seed = random.randrange(2**32)
    rng, registry = random.Random(seed), tmp_path / "registry"
    for number in (1, 2, 3):
        add(registry, write_adapter(tmp_path / str(number), number))
    with server_of() as server:
        answer, loads = server.script, isinstance(server, FakeVllm)

        def slowly(body, number):
            time.sleep(0.02)
            return answer(body, number)

        server.script = slowly

        def whole(model):
            return model in {*server.loaded, "base"} if loads else weights_in(Path(model)) is not None

        mover = Mover(registry, server.url)
        assert mover.move("promote", "v0001") == 0
        start = time.monotonic()
        assert mover.move("promote", "v0002") == 0
        length, killed, moved = time.monotonic() - start, 0, 0
        with watched(registry, whole) as watcher:
            for number in range(KILLS // 2):
                for action, target in (("rollback", "v0001"), ("promote", f"v000{2 + number % 2}")):
                    before = read_live(registry).version
                    killed += mover.move(action, target, rng.uniform(0, length)) == -signal.SIGKILL
                    assert read_live(registry).version in (before, target), seed
                    moved += read_live(registry).version == target
                    assert mover.move(action, target) == 0, seed
                    live = read_live(registry)
                    assert live.version == target and live.canary is None, seed
                    states = {version.name: version.state for version in versions.versions(registry)}
                    assert [name for name, state in states.items() if state == "live"] == [target], (seed, states)
                    assert not loads or list(server.loaded) == [live.model], seed
        mover.close()
        assert not watcher.broken, (seed, watcher.broken[:3])
        assert watcher.looks > KILLS and killed >= KILLS // 3
    lines = (registry / "history.jsonl").read_text().split("\n")
    done = read_moves(registry, read_live(registry))
    assert len(lines) > len(done) and [move.number for move in done] == list(range(1, len(done) + 1))
    for move, following in pairwise(done):
        assert move.after == following.before, (seed, json.dumps([move.number, following.number]))
