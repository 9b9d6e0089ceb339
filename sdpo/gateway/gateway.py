"""The parts of a running gateway, and who is let in."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request

from sdpo.data.redact import Redactor
from sdpo.errors import command, one_line
from sdpo.gateway.exchanges import new_id
from sdpo.gateway.identity import OptOuts, addressed_plainly, bearer, reached_by_others
from sdpo.gateway.keys import Key, Keys, Limits, Refused
from sdpo.gateway.metrics import Metrics
from sdpo.gateway.recording import Turn
from sdpo.gateway.serving import LivePointer
from sdpo.gateway.stitching import Stitcher
from sdpo.gateway.store import Store
from sdpo.gateway.upstream import Upstream
from sdpo.gateway.writer import Rows, StoreUnavailable, Writer

if TYPE_CHECKING:
    from sdpo.settings.gateway import GatewaySettings

_THREADS = 8  # that read the store
_HEALTH_SECONDS = 3.0
_SHORT = 2_000  # characters, of which private values are found in under 2 ms


class Stopwatch:
    """Measures a request: how long it took, and how long of that it waited for the upstream."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._waited = 0.0
        self._since: float | None = None

    def __enter__(self) -> "Stopwatch":
        self._since = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._since is not None
        self._waited += time.perf_counter() - self._since

    @property
    def added(self) -> float:
        """The seconds so far that were not spent waiting for the upstream."""
        return time.perf_counter() - self._start - self._waited


@dataclass
class Call:
    """A request that was let in: who sent it, its id, and the time it takes."""

    key: Key
    request_id: str
    watch: Stopwatch = field(default_factory=Stopwatch)


class Gateway:
    """All that the requests share."""

    def __init__(self, settings: "GatewaySettings", store: Store) -> None:
        self.settings, self.store = settings, store
        self.name = new_id("gateway")
        self.writer = Writer(store)
        self.stitcher = Stitcher(store)
        self.redactor = Redactor(settings.redact)
        self.upstream = Upstream(settings.upstream, settings.upstream_api_key, settings.upstream_timeout)
        self.live = LivePointer(settings.registry)
        self.opt_outs = OptOuts(settings.opt_out_file)
        self.keys = Keys(store)
        self.limits = Limits(settings.max_in_flight)
        self.threads = ThreadPoolExecutor(_THREADS, "store-reader")
        self.metrics = Metrics(
            {
                "in_flight": ("Requests that are being answered.", lambda: self.limits.in_flight),
                "commits": ("Transactions that wrote to the store.", lambda: self.writer.commits),
            }
        )
        self._health: tuple[float, dict[str, str]] = (float("-inf"), {})

    async def close(self) -> None:
        """Write what is left, and close all connections."""
        await self.upstream.close()
        await asyncio.to_thread(self.writer.close)
        self.threads.shutdown()
        self.store.close()

    async def in_thread(self, work: Any, *arguments: Any) -> Any:
        """Run a function that reads the store or takes a while, beside other requests. Raises StoreUnavailable."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.threads, work, *arguments)
        except SQLAlchemyError as error:
            raise StoreUnavailable(f"the store cannot be read: {one_line(error, 200)}") from None
        except RecursionError:
            raise Refused(400, "invalid_request", "The request is nested too deeply to be kept.") from None

    async def write_soon(self, rows: Callable[[], Rows], size: int) -> None:
        """Write rows that are made of a text of this size. Raises StoreUnavailable.

        Those of a long text are made beside the writer, which others wait for.
        """
        await self.writer.write(rows if size < _SHORT else await self.in_thread(rows))

    async def admit(self, request: Request) -> Key:
        """Return the key of a request. Raises Refused if it has none that is in force where one is needed."""
        if self.keys.stale:
            await self.in_thread(self.keys.refresh)
        if self.keys:
            return self.keys.key_of(bearer(request.headers))
        if reached_by_others(self.settings.gateway_host) and not self.settings.gateway_open:
            # It began with a key, and the last one was withdrawn since. What a request says of its address is no proof.
            message = f"All keys of this gateway were withdrawn. Make one: {command('gateway-key')} NAME=..."
            raise Refused(401, "invalid_api_key", message)
        if not addressed_plainly(request.headers, self.settings.gateway_open):
            message = (
                f"Without keys this gateway is not for other machines. Make a key: {command('gateway-key')} NAME=..."
            )
            raise Refused(403, "forbidden", message)
        return Key("")

    async def model_for(self, asked: Any, conversation: Any) -> tuple[Any, str]:
        """Return the model to ask the upstream for, and its version, when a client asks for a model.

        `conversation` is a function that returns the id of the conversation, awaited only if there is a canary.
        """
        live = self.live.read()
        if asked != self.settings.served_name:
            named = [(live.model, live.version)]
            named += [(live.canary.model, live.canary.version)] if live.canary else []
            return asked, next((version for model, version in named if version and model == asked), "")
        version, model = live.answering(await conversation() if live.canary else "")
        if model is None:
            model = self.settings.upstream_model
        if model is None:
            model = await self.upstream.first_model()
        return model or asked, version or ""

    def count(self, turn: Turn, state: str | None) -> None:
        """Count an answer in this state of the store, None if there was nothing to keep."""
        if state is not None and turn.kept:
            self.metrics.stored[state] += 1
        elif not turn.kept:
            self.metrics.not_stored[turn.why_not] += 1

    async def health(self) -> dict[str, str]:
        """Return how the store and the upstream are: "ok", or what is the matter."""
        checked_at, found = self._health
        if time.monotonic() - checked_at > _HEALTH_SECONDS or not found:
            try:
                await self.in_thread(self._read_something)
                store = "ok"
            except StoreUnavailable as error:
                store = str(error)
            found = {"store": store, "upstream": await self.upstream.healthy() or "ok"}
            self._health = (time.monotonic(), found)
        return found

    def _read_something(self) -> None:
        with self.store.engine.begin() as connection:
            connection.execute(text("SELECT 1"))
