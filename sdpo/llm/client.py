"""Sends many requests to a backend at once: bounded, in order, within a deadline, and none twice."""

import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from sdpo import progress
from sdpo.errors import BudgetReached, ServerError, SettingError
from sdpo.llm.backend import Backend, Reply, Request, RequestRefused, deadline_error
from sdpo.llm.cache import ReplyCache, keys_of
from sdpo.llm.meter import Meter, Usage
from sdpo.llm.thoughts import without_thoughts


class Client:
    """Sends many requests to a backend at once. Only one thread may call it at a time.

    A request that was answered before is answered from `cache`; another `sample` number draws a new reply.
    """

    def __init__(
        self,
        backend: Backend,
        concurrency: int = 32,
        timeout: float = 120.0,
        *,
        batch_timeout: float | None = None,
        cache: ReplyCache | None = None,
        meter: Meter | None = None,
    ):
        if concurrency < 1:
            raise SettingError(f"CONCURRENCY must be at least 1, not {concurrency}.")
        self.backend = backend
        self.concurrency = concurrency
        self.timeout = timeout
        self.batch_timeout = float("inf") if batch_timeout is None else batch_timeout
        self.cache = cache or ReplyCache()
        self.meter = meter or Meter()

    @property
    def name(self) -> str:
        """The model and its server, for messages."""
        return self.backend.name

    @property
    def usage(self) -> Usage:
        """The usage over the lifetime of this client and of its cache file."""
        return self.meter.usage

    def complete(self, requests: Sequence[Request]) -> list[Reply | ServerError]:
        """Return for each request, in order, its reply without thoughts or the ServerError that it failed with.

        Each request has `timeout` seconds, retries included, and the batch has `batch_timeout`. Raises RequestRefused
        as soon as the backend does, and BudgetReached before a request that could exceed the cost limit.
        """
        batch = _Batch(self, requests)
        started = time.monotonic()
        try:
            return batch.run()
        finally:
            self.usage.seconds += time.monotonic() - started


class _Batch:
    """One call of `complete`. Workers cache and count replies themselves, because a late reply is paid for too."""

    def __init__(self, client: Client, requests: Sequence[Request]) -> None:
        self.client, self.requests = client, requests
        self.keys = keys_of(client.backend, requests)
        self.outcomes: dict[int, Reply | ServerError] = {}  # by index of the request, as the following
        for index, key in enumerate(self.keys):
            if (reply := client.cache.get(key)) is not None:
                self.outcomes[index] = reply
        self.waiting = deque(index for index in range(len(requests)) if index not in self.outcomes)
        self.deadlines: dict[int, float] = {}  # of requests in flight; ascending, since all get at most the same time
        self.arrived: queue.SimpleQueue[tuple[int, Reply | BaseException]] = queue.SimpleQueue()
        self.end = time.monotonic() + client.batch_timeout
        client.usage.cached += len(requests) - len(self.waiting)

    def run(self) -> list[Reply | ServerError]:
        """Return the outcomes in order, once every request has one."""
        with progress.task(self.client.name, len(self.requests), "replies", len(self.outcomes)) as under:
            while self.waiting or self.deadlines:
                self._send()
                if self.deadlines:
                    self._take()
                under.done = len(self.outcomes)
        return [_without_thoughts(self.outcomes[index]) for index in range(len(self.requests))]

    def _send(self) -> None:
        client = self.client
        while self.waiting and len(self.deadlines) < client.concurrency:
            now = time.monotonic()
            if now >= self.end:
                self._fail_waiting()
                return
            if not client.meter.begin(self.requests[self.waiting[0]]):
                if self.deadlines:
                    return  # the requests in flight may cost less than was reserved for them
                raise BudgetReached(
                    f"{client.name}: ${client.usage.cost:.4f} spent, and the next reply could exceed MAX_COST."
                )
            index = self.waiting.popleft()
            seconds = min(client.timeout, self.end - now)
            self.deadlines[index] = now + seconds
            # Daemon threads, not a pool: a pool's threads are joined at exit, where a server that hangs would block.
            threading.Thread(target=self._ask, args=(index, seconds), daemon=True).start()

    def _ask(self, index: int, seconds: float) -> None:
        client, request = self.client, self.requests[index]
        reply: Reply | None = None
        outcome: Reply | BaseException
        try:
            outcome = reply = client.backend.ask(request, seconds)
            client.cache.add(self.keys[index], reply)
        except BaseException as error:  # raised again in the caller's thread
            outcome = error
        client.meter.end(request, reply)
        self.arrived.put((index, outcome))

    def _take(self) -> None:
        first = next(iter(self.deadlines))
        try:
            index, outcome = self.arrived.get(timeout=max(0.0, self.deadlines[first] - time.monotonic()))
        except queue.Empty:
            seconds = min(self.client.timeout, self.client.batch_timeout)
            index, outcome = first, deadline_error(self.client.name, seconds)
        if self.deadlines.pop(index, None) is None:
            return  # it timed out before
        if isinstance(outcome, RequestRefused) or not isinstance(outcome, Reply | ServerError):
            raise outcome
        self.outcomes[index] = outcome
        self.client.usage.failures += isinstance(outcome, ServerError)

    def _fail_waiting(self) -> None:
        for index in self.waiting:
            seconds = self.client.batch_timeout
            self.outcomes[index] = ServerError(f"{self.client.name}: not sent within the batch's {seconds:g} s.")
        self.client.usage.failures += len(self.waiting)
        self.waiting.clear()


def _without_thoughts(outcome: Reply | ServerError) -> Reply | ServerError:
    """Return a reply without its thoughts. Here and not in a backend: the cache keeps replies as they were paid for."""
    if isinstance(outcome, ServerError) or (text := without_thoughts(outcome.text)) == outcome.text:
        return outcome
    return replace(outcome, text=text, raw=outcome.written)
