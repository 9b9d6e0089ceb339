"""Asks a backend many things at once: bounded, in order, within a deadline, and nothing twice."""

import queue
import threading
import time
from collections import deque
from collections.abc import Sequence

from sdpo.errors import BudgetReached, ServerError, SettingError
from sdpo.llm.backend import Backend, Reply, Request, RequestRefused, deadline_error
from sdpo.llm.cache import ReplyCache, keys_of
from sdpo.llm.meter import Meter, Usage


class Client:
    """Asks a backend many things at once. One caller at a time.

    A request that was answered before is answered from `cache`: give another `sample` to draw again.
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
        """The model and where it is, for messages to people."""
        return self.backend.name

    @property
    def usage(self) -> Usage:
        """What was asked over the client's life, and over that of its cache's file."""
        return self.meter.usage

    def complete(self, requests: Sequence[Request]) -> list[Reply | ServerError]:
        """Return a reply to each request in their order, or the ServerError that took its place.

        Each has `timeout` seconds, retries included, and all together have `batch_timeout`. Raises Refused as
        soon as the backend does, and BudgetReached before a request that could take the cost over its limit.
        """
        batch = _Batch(self, requests)
        started = time.monotonic()
        try:
            return batch.run()
        finally:
            self.usage.seconds += time.monotonic() - started


class _Batch:
    """One call of `complete`. Workers keep and count replies themselves: also one that comes too late is paid for."""

    def __init__(self, client: Client, requests: Sequence[Request]) -> None:
        self.client, self.requests = client, requests
        self.keys = keys_of(client.backend, requests)
        self.outcomes: list[Reply | ServerError | None] = [client.cache.get(key) for key in self.keys]
        self.waiting = deque(place for place, outcome in enumerate(self.outcomes) if outcome is None)
        self.deadlines: dict[int, float] = {}  # of those in flight; in order, for none has more time than the last
        self.arrived: queue.SimpleQueue = queue.SimpleQueue()
        self.end = time.monotonic() + client.batch_timeout
        client.usage.cached += len(requests) - len(self.waiting)

    def run(self) -> list[Reply | ServerError]:
        """Send and take until every request has its outcome."""
        while self.waiting or self.deadlines:
            self._send()
            if self.deadlines:
                self._take()
        return self.outcomes

    def _send(self) -> None:
        client = self.client
        while self.waiting and len(self.deadlines) < client.concurrency:
            now = time.monotonic()
            if now >= self.end:
                self._give_up_waiting()
                return
            if not client.meter.begin(self.requests[self.waiting[0]]):
                if self.deadlines:
                    return  # what is in flight may turn out cheaper than it could be
                raise BudgetReached(
                    f"{client.name}: ${client.usage.cost:.4f} spent, and the next reply could pass MAX_COST."
                )
            place = self.waiting.popleft()
            seconds = min(client.timeout, self.end - now)
            self.deadlines[place] = now + seconds
            # Daemons, not a pool: a pool's threads are joined at exit, so one hung server would keep us.
            threading.Thread(target=self._ask, args=(place, seconds), daemon=True).start()

    def _ask(self, place: int, seconds: float) -> None:
        client, request, reply = self.client, self.requests[place], None
        try:
            outcome = reply = client.backend.ask(request, seconds)
            client.cache.add(self.keys[place], reply)
        except BaseException as error:  # raised again in the caller's thread
            outcome = error
        client.meter.end(request, reply)
        self.arrived.put((place, outcome))

    def _take(self) -> None:
        first = next(iter(self.deadlines))
        try:
            place, outcome = self.arrived.get(timeout=max(0.0, self.deadlines[first] - time.monotonic()))
        except queue.Empty:
            seconds = min(self.client.timeout, self.client.batch_timeout)
            place, outcome = first, deadline_error(self.client.name, seconds)
        if self.deadlines.pop(place, None) is None:
            return  # given up before
        if isinstance(outcome, RequestRefused) or not isinstance(outcome, Reply | ServerError):
            raise outcome
        self.outcomes[place] = outcome
        self.client.usage.failures += isinstance(outcome, ServerError)

    def _give_up_waiting(self) -> None:
        for place in self.waiting:
            seconds = self.client.batch_timeout
            self.outcomes[place] = ServerError(f"{self.client.name}: not asked within the batch's {seconds:g} s.")
        self.client.usage.failures += len(self.waiting)
        self.waiting.clear()
