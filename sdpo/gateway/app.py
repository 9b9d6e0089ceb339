"""The gateway as an ASGI application: its routes, who is let in, errors in OpenAI's form, and what runs beside it."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import aiohttp
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from sdpo.gateway.chat import chat
from sdpo.gateway.exchanges import new_id, plain_id
from sdpo.gateway.feedback import feedback
from sdpo.gateway.gateway import Call, Gateway
from sdpo.gateway.keys import Refused
from sdpo.gateway.passing import models, pass_on
from sdpo.gateway.responses import Gone, error
from sdpo.gateway.retention import purge
from sdpo.gateway.store import Store
from sdpo.gateway.upstream import UpstreamError
from sdpo.gateway.writer import StoreUnavailable

if TYPE_CHECKING:
    from sdpo.settings.gateway import GatewaySettings

Handler = Callable[[Request, Gateway, Call], Awaitable[Any]]
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]
_DAY = 86_400.0


class Guarded:
    """A route whose requests are let in, counted, limited and given an id, and whose errors become responses."""

    def __init__(self, route: str, handler: Handler, gateway: Gateway) -> None:
        self._route, self._handler, self._gateway = route, handler, gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        name = plain_id(request.headers.get("x-request-id")) or new_id("req")
        status = 0

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [header for header in message.get("headers", []) if header[0].lower() != b"x-request-id"]
                message = {**message, "headers": [*headers, (b"x-request-id", name.encode())]}
            await send(message)

        response: Any
        try:
            key = await self._gateway.admit(request)
            with self._gateway.limits.request(key):
                response = await self._handler(request, self._gateway, Call(key, name))
                await response(scope, receive, named)
            return
        except Refused as refused:
            self._gateway.metrics.rejected[refused.code] += 1
            response = error(refused.status, refused.code, refused.message, retry_after=refused.retry_after)
        except UpstreamError as failed:
            response = error(failed.status, failed.code, failed.message)
        except StoreUnavailable as failed:
            response = error(503, "store_unavailable", str(failed), retry_after=5)
        except Gone:
            self._gateway.metrics.requests[self._route, 499] += 1
            return
        except aiohttp.ClientError:
            if status:  # in the middle of a body that is passed on: the connection ends, as the upstream's did
                raise
            response = error(502, "upstream_error", "The upstream broke its answer off.")
        finally:
            if status:
                self._gateway.metrics.requests[self._route, status] += 1
        await response(scope, receive, named)
        self._gateway.metrics.requests[self._route, status] += 1


def make_app(settings: "GatewaySettings", store: Store) -> Starlette:
    """Return the application. The store is closed when the application ends."""
    gateway = Gateway(settings, store)

    async def health(request: Request) -> Response:
        found = await gateway.health()
        well = all(state == "ok" for state in found.values())
        return JSONResponse({"status": "ok" if well else "failing", **found}, 200 if well else 503)

    async def metrics(request: Request) -> Response:
        return PlainTextResponse(gateway.metrics.text(), media_type="text/plain; version=0.0.4")

    routes = [
        Route("/health", health, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/v1/chat/completions", Guarded("chat", chat, gateway), methods=["POST"]),
        Route("/v1/models", Guarded("models", models, gateway), methods=["GET"]),
        Route("/v1/feedback", Guarded("feedback", feedback, gateway), methods=["POST"]),
        Route("/{path:path}", Guarded("other", pass_on, gateway), methods=_METHODS),
    ]

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await gateway.in_thread(
            gateway.redactor.words, ""
        )  # loads its detectors, which the first request would wait for
        beside = [asyncio.create_task(_purge_daily(gateway)), asyncio.create_task(_try_upstream(gateway))]
        try:
            yield
        finally:
            for task in beside:
                task.cancel()
            await gateway.close()

    app = Starlette(routes=routes, lifespan=lifespan)
    app.state.gateway = gateway
    return app


async def _try_upstream(gateway: Gateway) -> None:
    """Say at the start if the upstream does not answer yet. It may come later."""
    if problem := await gateway.upstream.healthy():
        words = f"the upstream {gateway.upstream.shown} does not answer ({problem}); clients get 502 until it does"
        print(f"warning: {words}", file=sys.stderr, flush=True)


async def _purge_daily(gateway: Gateway) -> None:
    """Remove what is too old, now and each day."""
    days = gateway.settings.retention_days
    while days:
        try:
            await gateway.in_thread(purge, gateway.store, days)
        except StoreUnavailable as failed:
            logging.getLogger("uvicorn.error").warning("nothing was removed: %s", failed)
        await asyncio.sleep(_DAY)
