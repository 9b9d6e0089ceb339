"""Writes to the store for many requests at once: what waits is committed together, by one thread."""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Executable, bindparam, delete, update
from sqlalchemy.exc import DBAPIError

from sdpo.errors import RunError, one_line
from sdpo.gateway.direct import DirectConnection
from sdpo.gateway.schema import CONVERSATIONS, EXCHANGES, OPT_OUTS, PIECES, RATINGS
from sdpo.gateway.store import Store

_Done = asyncio.Future[None]
Rows = Mapping[str, Sequence[Mapping[str, Any]]]
ANSWER_COLUMNS = ("state", "finished_at", "answers", "finish_reason", "usage", "answered", "said")
_AT_ONCE = 512  # jobs in one commit
_WAITS = (0.05, 0.2, 0.5, 1.0, 2.0, 4.0)  # seconds before a database that does not respond is tried again


class StoreUnavailable(RunError):
    """The store could not be written. What was to be written is lost, so it must not be answered either."""


class Writer:
    """A thread that writes what it is given, in the order in which it is given.

    A job is a mapping of kinds to rows, or a function that returns one, which is called in the thread. The kinds are
    `conversations`, `exchanges`, `pieces` (which replace earlier ones), `finishes` (columns for the exchange `id`,
    whose pieces are removed), `opt_outs` and `ratings`.
    """

    def __init__(self, store: Store) -> None:
        self.commits = 0
        self._database = DirectConnection(store.engine)
        self._statements = [(kind, self._database.compile(statement)) for kind, statement in _statements(store)]
        self._queue: queue.SimpleQueue[tuple[Callable[[], Rows] | Rows, _Done] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    async def write(self, job: Callable[[], Rows] | Rows) -> None:
        """Write and return when it is committed, even if the caller is cancelled. Raises StoreUnavailable."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put((job, done))
        await asyncio.shield(done)

    def close(self) -> None:
        """Write what was given so far, and end."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while True:
            first = self._queue.get()
            batch = [] if first is None else [first]
            while first is not None and len(batch) < _AT_ONCE and not self._queue.empty():
                first = self._queue.get()
                batch += [] if first is None else [first]
            self._commit(batch)
            if first is None:
                self._database.close()
                return

    def _commit(self, batch: Sequence[tuple[Callable[[], Rows] | Rows, _Done]]) -> None:
        jobs: list[tuple[Rows, _Done]] = []
        for job, done in batch:
            try:
                jobs.append((job() if callable(job) else job, done))
            except Exception as error:
                _resolve([done], error)
        try:
            self._write([rows for rows, _ in jobs])
        except Exception as error:
            if len(jobs) > 1 and not isinstance(error, self._database.unavailable):
                for one in jobs:  # one of them cannot be written: the others can
                    self._commit([one])
                return
            words = f"the store cannot be written: {one_line(_cause(error), 200)}"
            _resolve([done for _, done in jobs], StoreUnavailable(words))
            return
        _resolve([done for _, done in jobs])

    def _write(self, jobs: Sequence[Rows]) -> None:
        for wait in (*_WAITS, None):
            try:
                with self._database.transaction() as cursor:
                    self._execute(cursor, jobs)
                self.commits += 1
                return
            except self._database.unavailable:
                if wait is None:
                    raise
                time.sleep(wait)

    def _execute(self, cursor: Any, jobs: Sequence[Rows]) -> None:
        for kind, statement in self._statements:
            rows = [row for job in jobs for row in job.get(kind, ())]
            if rows:
                statement.execute(cursor, rows)


def _resolve(done: Sequence[_Done], error: Exception | None = None) -> None:
    """Let the tasks that wait for these go on, each in its own loop."""

    def resolve(futures: Sequence[_Done]) -> None:
        for future in futures:
            if not future.done() and error is not None:
                future.set_exception(error)
            elif not future.done():
                future.set_result(None)

    for loop in {future.get_loop() for future in done}:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
            loop.call_soon_threadsafe(resolve, [future for future in done if future.get_loop() is loop])


def _statements(store: Store) -> list[tuple[str, Executable]]:
    pieces, ratings = store.insert(PIECES), store.insert(RATINGS)
    finish = update(EXCHANGES).where(EXCHANGES.c.id == bindparam("id"))
    return [
        ("conversations", store.insert(CONVERSATIONS).on_conflict_do_nothing()),
        ("exchanges", store.insert(EXCHANGES).on_conflict_do_nothing()),
        (
            "pieces",
            pieces.on_conflict_do_update(
                index_elements=["exchange", "channel", "number"], set_={"text": pieces.excluded.text}
            ),
        ),
        ("finishes", finish.values({name: bindparam(name) for name in ANSWER_COLUMNS})),
        ("finishes", delete(PIECES).where(PIECES.c.exchange == bindparam("id"))),
        ("opt_outs", store.insert(OPT_OUTS).on_conflict_do_nothing()),
        (
            "ratings",
            ratings.on_conflict_do_update(
                index_elements=["id"],
                set_={name: ratings.excluded[name] for name in ("rating", "comment", "rated_at")},
            ),
        ),
    ]


def _cause(error: Exception) -> BaseException:
    return error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
