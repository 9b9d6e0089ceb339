"""Once around the loop, in the tiny world if no model is given: users talk, a night of learning, users talk again.

`transformers serve` has the model, `make gateway` is in front of it, `make learn` learns from the gateway's store.
Each is the program that a user starts, in a process of its own.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from sdpo import progress
from sdpo.errors import RunError, ServerError, command
from sdpo.gateway.store import Store
from sdpo.learn.night import STAGES
from sdpo.learn.rule_users import STYLE, TASTES, Clients, compare_with_store, figures, greedy_answers
from sdpo.llm.server import end_with_parent
from sdpo.registry.live import read_live
from sdpo.tiny import MODEL_DIR

_READY_SECONDS, _STOP_SECONDS = 180, 60
# Exit codes of `make learn` that are decisions: done, stopped by the audit or the guard, kept back.
_DECISIONS = (0, 6, 7)
# The end of a line that only says for how long something has been under way.
_UNDER_WAY = re.compile(r": [0-9]+(:[0-9]{2})+$")


@dataclass(frozen=True)
class Loop:
    """A running server with a gateway in front of it; store, registry and logs are in `folder`.

    `model` is a folder, None for the tiny world's model.
    """

    folder: Path
    upstream: str
    url: str
    model: Path | None = None

    @property
    def store_url(self) -> str:
        """The address of the gateway's store."""
        return f"sqlite:///{self.folder / 'store.sqlite'}"

    @property
    def registry(self) -> Path:
        """The folder of the versions."""
        return self.folder / "registry"

    def job(
        self, name: str, *flags: str, allowed: Sequence[int] = (0,), watch: Callable[[str], None] | None = None
    ) -> str:
        """Run a job on this loop's registry and return what it printed; `watch` gets each line as it is printed.

        Raises RunError if the job failed.
        """
        model = ["--tiny"] if self.model is None else ["--model", str(self.model)]
        line = [*_job(name), *model, "--registry", str(self.registry)]
        line += ["--upstream", self.upstream, "--unload-after", "0", *flags]
        printed: list[str] = []
        with (
            tempfile.TemporaryFile("w+", errors="replace") as errors,
            subprocess.Popen(line, env=_environment(), stdout=subprocess.PIPE, stderr=errors, text=True) as process,
        ):
            for text in process.stdout or ():
                printed.append(text)
                if watch is not None:
                    watch(text.rstrip("\n"))
            code = process.wait()
            errors.seek(0)
            failure = errors.read().strip()
        if code not in allowed:
            last = (failure or "".join(printed).strip() or "it wrote nothing").splitlines()[-1]
            raise RunError(f"{name} ended with code {code}: {last.removeprefix('error: ')}")
        return "".join(printed)


@contextmanager
def running(folder: Path, port: int = 0, model: Path | None = None) -> Iterator[Loop]:
    """Run the server and the gateway while the block runs, the gateway on this port if it is free.

    Raises ServerError if one of them does not answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    server_port, port = _free_port(), _free_port(port)
    loop = Loop(folder.resolve(), f"http://127.0.0.1:{server_port}/v1", f"http://127.0.0.1:{port}/v1", model)
    server = [sys.executable, "-P", "-m", "transformers.cli.transformers", "serve", "--device", "cpu"]
    server += ["--reasoning", "off", "--port", str(server_port)]  # the tiny model was trained without thoughts
    given = {"UPSTREAM": loop.upstream, "UPSTREAM_MODEL": str(model or MODEL_DIR), "STORE_URL": loop.store_url}
    given |= {"GATEWAY_PORT": str(port), "GATEWAY_HOST": "127.0.0.1", "REGISTRY": str(loop.registry)}
    with (
        _process(server, loop.folder / "server.log", CUDA_VISIBLE_DEVICES="") as serving,
        _process(_job("gateway"), loop.folder / "gateway.log", **given) as passing,
    ):
        for process, url, log in ((serving, loop.upstream, "server.log"), (passing, loop.url, "gateway.log")):
            _wait(process, url, loop.folder / log)
        yield loop


@dataclass(frozen=True)
class Result:
    """What came of once around: figures before and after, what the store has, and the answers at each point.

    `kept` is what `compare_with_store` returns; `greedy` are the likeliest answers before, after, and rolled back.
    """

    errors: list[str]
    kept: dict[str, int]
    outcome: str
    sentence: str
    live: str | None
    before: dict[str, Any]
    after: dict[str, Any]
    versions: dict[str, int]
    greedy: list[list[str]]
    live_at_the_end: str | None
    seconds: dict[str, float]


def once_around(
    loop: Loop,
    conversations: int,
    clients: int,
    fresh: int,
    *learn_flags: str,
    roll_back: bool = True,
    say: Callable[[str], None] = print,
) -> Result:
    """Let users talk, learn, let users talk again, and with `roll_back` go back; return what came of it.

    Raises RunError if a job failed.
    """
    talking, measured, seconds = Clients(loop.url, clients), Clients(loop.url, clients), dict[str, float]()
    greedy = [greedy_answers(loop.url)]
    say(f"{clients} users talk to the model: {conversations} conversations")
    with _timed(seconds, "talk"), progress.task("the users talk"):
        before = talking.talk(conversations, seed=1)
    kept = compare_with_store(Store(loop.store_url, create=False), talking)
    say(f"{kept['stored']} conversations are in the store, {kept['lost']} lost, {kept['different']} different")
    say(f"a night of {command('learn')}, stage by stage: {', '.join(STAGES)}")
    with _timed(seconds, "night"), progress.task("the night"):
        summary = learn(loop, learn_flags, say)
    live = read_live(loop.registry).version
    say(f"{summary['outcome']}: {summary['sentence']}")
    with _timed(seconds, "measure"), progress.task("the users talk to what is live now"):
        after = measured.talk(fresh, seed=2, follow_up=False)
    greedy.append(greedy_answers(loop.url))
    if roll_back and live is not None:
        loop.job("rollback")
        greedy.append(greedy_answers(loop.url))
    return Result(
        errors=[*talking.errors, *measured.errors], kept=kept, outcome=summary["outcome"],
        sentence=summary["sentence"], live=live, before=figures(before), after=figures(after),
        versions=dict(measured.versions), greedy=greedy, live_at_the_end=read_live(loop.registry).version,
        seconds=seconds,
    )  # fmt: skip


def learn(loop: Loop, flags: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
    """Run a night, say what comes of each stage as it passes, and return the night's summary."""
    given = ["--store-url", loop.store_url, "--scratch", str(loop.folder), *flags]

    def watch(line: str) -> None:
        if is_of_a_stage(line):
            say(f"  {line}")

    loop.job("learn", *given, allowed=_DECISIONS, watch=watch)
    newest = max((loop.folder / "learn").glob("*/learn.json"), key=lambda path: path.stat().st_mtime)
    return dict(json.loads(newest.read_text("utf-8")))


def is_of_a_stage(line: str) -> bool:
    """Return whether a line of the night's output says that a stage has begun, or what came of it."""
    name, colon, _ = line.partition(": ")
    return bool(colon) and name in STAGES and not _UNDER_WAY.search(line)


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - started, 1)


def table(result: Result) -> str:
    """Return the figures before and after as a table, and before it what adherence is adherence to."""
    unwanted = " nor ".join(name for taste in TASTES for name in taste)
    lines = [
        f"adherence: the share of answers in the style that the users want, {STYLE}",
        f"(neither {unwanted}); the other columns are shares of answers too, emoji is what nobody asked for",
        f"{'':7} adherence  validity  share with emoji  casual  long",
    ]
    for name, found in (("before", result.before), ("after", result.after)):
        axes = found["axes"]
        lines.append(
            f"{name:7} {found['adherence']:9.3f} {found['validity']:9.3f} {axes['emoji']:17.2f} {axes['casual']:7.2f} "
            f"{axes['long']:5.2f}"
        )
    return "\n".join(lines)


@contextmanager
def _process(command: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in the background, its output in a file, and stop it at the end."""
    with log.open("wb") as file:
        started = subprocess.Popen(
            command, env=_environment() | environment, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=end_with_parent(),
        )  # fmt: skip
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def _job(name: str) -> list[str]:
    return [sys.executable, "-m", f"jobs.{name}"]


def _environment() -> dict[str, str]:
    """Return an environment without the settings of the job that this is part of, which are not the others'."""
    from sdpo.settings import known_names
    from sdpo.settings.resolve import MAKE_VARIABLES

    removed = {name.upper() for name in known_names()} | {MAKE_VARIABLES}
    kept = {name: value for name, value in os.environ.items() if name not in removed}
    # Two processes that each use every core wait for each other.
    kept.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))
    return kept | {"PYTHONUNBUFFERED": "1", "WANDB_MODE": "disabled"}


def _free_port(wanted: int = 0) -> int:
    """Return this port if nobody listens on it, else a free one."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return _free_port()
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Wait until a server responds. Raises ServerError if it ends or takes too long."""
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            httpx.get(url.removesuffix("/v1") + "/health", timeout=5, trust_env=False)
            return
        except httpx.HTTPError:
            if process.poll() is not None or time.monotonic() > deadline:
                lines = log.read_text("utf-8", "replace").strip().splitlines() or ["it wrote nothing"]
                raise ServerError(f"nothing answers at {url}: {lines[-1]} (log: {log})") from None
            time.sleep(0.2)
