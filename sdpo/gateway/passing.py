"""Paths that the gateway keeps nothing of: the list of models, and all that it passes on untouched."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from sdpo.gateway.chat import RawResponse, chat
from sdpo.gateway.gateway import Call, Gateway
from sdpo.gateway.keys import Refused
from sdpo.gateway.responses import listening, unless_gone
from sdpo.gateway.upstream import blocks_of, for_operators, is_chat, models_in, raw_path, response_headers


async def models(request: Request, gateway: Gateway, call: Call) -> Response:
    """Return the upstream's models, the served name first. Raises UpstreamError.

    The served name alone is listed where its model is known and the upstream lists none.
    """
    accept = [(name, value) for name, value in request.headers.items() if name == "accept"]
    response, content, listed = await gateway.upstream.models(accept)
    live, name = gateway.live.read(), gateway.settings.served_name
    model = live.model or gateway.settings.upstream_model
    if listed is None and model is None:
        return RawResponse(content, response.status, response_headers(response, decoded=True))
    others = [one for one in models_in(listed) if one.get("id") != name]
    root = model or next((one.get("id") for one in others), None)
    created = int(live.changed_at) or int(time.time())
    served = {"id": name, "object": "model", "created": created, "owned_by": "sdpo", "root": root}
    return JSONResponse({"object": "list", **(listed or {}), "data": [served, *others]})


async def pass_on(request: Request, gateway: Gateway, call: Call) -> Any:
    """Return the upstream's response to any other request, untouched.

    Raises Refused, UpstreamError and StoreUnavailable.
    """
    if is_chat(request.method, request.url.path):
        return await chat(request, gateway, call)
    if for_operators(request.url.path):
        message = "This path changes what the server serves. Send the request to the server itself."
        raise Refused(403, "forbidden", message)
    has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    headers = list(request.headers.items())
    length = request.headers.get("content-length")
    with call.watch:
        response = await gateway.upstream.send(
            request.method,
            raw_path(request.scope),
            headers,
            _body(request) if has_body else None,
            request.url.query,
            length=length,
            untouched=True,
        )
    return PassedOn(response, response_headers(response))


async def _body(request: Request) -> AsyncIterator[bytes]:
    async for block in request.stream():
        if block:
            yield block


class PassedOn:
    """The response that passes the upstream's bytes on as they come."""

    def __init__(self, response: aiohttp.ClientResponse, headers: list[tuple[bytes, bytes]]) -> None:
        self._response, self._headers = response, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self._response.status, "headers": self._headers})
            async with listening(receive) as gone:
                blocks = blocks_of(self._response)
                while True:
                    block = await unless_gone(_task(anext(blocks, None)), gone)
                    if block is None:
                        break
                    await send({"type": "http.response.body", "body": block, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._response.release()


def _task(work: Any) -> Any:
    async def run() -> Any:
        return await work

    return asyncio.create_task(run())
