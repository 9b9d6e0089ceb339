"""Answers POST /v1/chat/completions: asks the upstream, and keeps what the client gets before the client gets it."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import aiohttp
from starlette.requests import Request
from starlette.responses import Response

from sdpo.gateway.answer import whole_answer
from sdpo.gateway.exchanges import plain_text
from sdpo.gateway.gateway import Call, Gateway
from sdpo.gateway.identity import Identity, identify
from sdpo.gateway.keys import Refused
from sdpo.gateway.recording import Turn, read_turn
from sdpo.gateway.responses import listening, unless_gone
from sdpo.gateway.streaming import StreamedAnswer
from sdpo.gateway.upstream import raw_path, response_headers

MAX_BODY = 64 * 2**20
_STEPS_OF_SENDING = 4  # of the event loop, after which a request is on its way if its connection is open


class RawResponse(Response):
    """A response with headers as they came from the upstream."""

    def __init__(self, body: bytes, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        super().__init__(body, status)
        own = [(b"content-length", str(len(body)).encode())]
        self.raw_headers = [(name, value) for name, value in headers if name != b"content-length"] + own


async def chat(request: Request, gateway: Gateway, call: Call) -> Any:
    """Return the response to a chat request. Raises Refused, UpstreamError and StoreUnavailable."""
    content = await read_body(request)
    body = _parsed(content)
    identity = identify(request.headers, body, call.key.name)
    messages = body.get("messages")
    opted_out = identity.user in gateway.opt_outs
    given = messages if isinstance(messages, list) else []
    turn = asyncio.create_task(_turn(gateway, given, identity, opted_out))
    try:
        async with listening(request.receive) as gone:
            asking = asyncio.create_task(_ask(request, gateway, call, content, body, turn))
            response, model, version = await unless_gone(asking, gone)
            try:
                return await _answer(response, gateway, call, await turn, body, model, version, gone)
            except BaseException:
                response.release()
                raise
    except BaseException:
        _given_up(gateway, turn)
        raise


async def _turn(gateway: Gateway, messages: list[Any], identity: Identity, opted_out: bool) -> Turn:
    """Return the turn that a request is. It is found while the upstream works, not while the request is being sent."""
    if gateway.live.read().canary is None:
        for _ in range(_STEPS_OF_SENDING):
            await asyncio.sleep(0)
    return await gateway.in_thread(read_turn, messages, identity, opted_out, gateway.redactor, gateway.stitcher)


async def read_body(request: Request) -> bytes:
    """Return the body of a request. Raises Refused if it is too large."""
    blocks, size = [], 0
    async for block in request.stream():
        size += len(block)
        if size > MAX_BODY:
            raise Refused(413, "request_too_large", f"The request has more than {MAX_BODY // 2**20} MiB.")
        blocks.append(block)
    return b"".join(blocks)


def _parsed(content: bytes) -> dict[str, Any]:
    """Return the request as an object, an empty one if it is none: the upstream says what is wrong with it."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


async def _ask(
    request: Request, gateway: Gateway, call: Call, content: bytes, body: Mapping[str, Any], turn: "asyncio.Task[Turn]"
) -> tuple[aiohttp.ClientResponse, Any, str]:
    """Return the upstream's response, the model that it was asked for, and its version."""

    async def conversation() -> str:
        return (await turn).place.conversation

    asked = body.get("model")
    model, version = await gateway.model_for(asked, conversation)
    if model != asked:
        content = json.dumps({**body, "model": model}).encode()
    headers = [(name, value) for name, value in request.headers.items() if name != "accept-encoding"]
    headers.append(("accept-encoding", "identity"))
    with call.watch:
        response = await gateway.upstream.send("POST", raw_path(request.scope), headers, content, request.url.query)
    return response, model, version


async def _answer(
    response: aiohttp.ClientResponse,
    gateway: Gateway,
    call: Call,
    turn: Turn,
    body: Mapping[str, Any],
    model: Any,
    version: str,
    gone: "asyncio.Task[None]",
) -> Any:
    headers = response_headers(response, decoded=True)
    headers += [(b"x-sdpo-version", (version or "base").encode())]
    if turn.kept:
        exchange = turn.exchange(body, plain_text(model), version, call.request_id, gateway.name)
        headers += [
            (b"x-sdpo-conversation", exchange.conversation.encode()),
            (b"x-sdpo-exchange", exchange.id.encode()),
        ]
    else:
        exchange = None
        await gateway.writer.write(turn.opt_out_rows())
    if response.status == 200 and "text/event-stream" in response.headers.get("content-type", ""):
        return StreamedAnswer(response, headers, gateway, call, turn, exchange)
    reading = asyncio.create_task(_timed(call, gateway.upstream.read(response)))
    content = await unless_gone(reading, gone)
    if response.status != 200:
        gateway.stitcher.release(turn.place)
        return RawResponse(content, response.status, response_headers(response, decoded=True))
    answers, reason, usage = whole_answer(_parsed(content))
    if exchange is not None and answers:
        done = exchange
        await gateway.write_soon(lambda: done.complete_rows(answers, reason, usage), len(content))
    gateway.count(turn, "complete" if answers else None)
    gateway.stitcher.release(turn.place)
    gateway.metrics.added.add(call.watch.added)
    return RawResponse(content, 200, headers)


async def _timed(call: Call, work: Any) -> Any:
    with call.watch:
        return await work


def _given_up(gateway: Gateway, turn: "asyncio.Task[Turn]") -> None:
    """End the claim of a request that gets no answer, now or when its place is known."""

    def release(done: "asyncio.Task[Turn]") -> None:
        if not done.cancelled() and done.exception() is None:
            gateway.stitcher.release(done.result().place)

    turn.add_done_callback(release)
