"""Passes a streamed answer on, byte for byte; each block is in the store before it is sent."""

import asyncio
import json
from collections import deque
from typing import Any

import aiohttp
from starlette.types import Receive, Scope, Send

from sdpo.gateway.answer import Answer, EventStream
from sdpo.gateway.draft import Draft
from sdpo.gateway.exchanges import BROKEN, COMPLETE, Exchange
from sdpo.gateway.gateway import Call, Gateway
from sdpo.gateway.recording import Turn
from sdpo.gateway.responses import error_body, listening
from sdpo.gateway.upstream import UpstreamError, blocks_of
from sdpo.gateway.writer import StoreUnavailable

_WAITING = 4 * 2**20  # bytes that may wait to be sent before the upstream has to wait


class _Blocks:
    """What arrives from the upstream. While some of it is stored and sent, more comes together."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.error: aiohttp.ClientError | None = None
        self.ended = False
        self._response = response
        self._blocks: deque[bytes] = deque()
        self._size = 0
        self._changed, self._room = asyncio.Event(), asyncio.Event()
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for block in blocks_of(self._response):
                self._blocks.append(block)
                self._size += len(block)
                self._changed.set()
                if self._size > _WAITING:
                    self._room.clear()
                    await self._room.wait()
        except aiohttp.ClientError as error:
            self.error = error
        finally:
            self.ended = True
            self._changed.set()

    async def take(self) -> tuple[bytes, bool]:
        """Wait until something is there, or the stream has ended; return all of it, and whether it was the last."""
        await self._changed.wait()
        self._changed.clear()
        content = b"".join(self._blocks)
        self._blocks.clear()
        self._size = 0
        self._room.set()
        if self.ended:
            self._changed.set()
        return content, self.ended

    def wake(self, _: object = None) -> None:
        """Let `take` return what there is."""
        self._changed.set()

    async def close(self) -> None:
        """Stop reading."""
        self._task.cancel()
        await asyncio.wait({self._task})


class StreamedAnswer:
    """The response that passes the upstream's stream on. `exchange` is None if the answer is not kept."""

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        headers: list[tuple[bytes, bytes]],
        gateway: Gateway,
        call: Call,
        turn: Turn,
        exchange: Exchange | None,
    ) -> None:
        self._response, self._headers = response, headers
        self._gateway, self._call, self._turn = gateway, call, turn
        self._answer, self._events = Answer(), EventStream()
        self._draft = Draft(exchange, self._answer) if exchange else None
        self._state: str | None = None  # as it is in the store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        blocks = _Blocks(self._response)
        try:
            async with listening(receive) as gone:
                await send({"type": "http.response.start", "status": 200, "headers": self._headers})
                await self._pass_on(blocks, send, gone)
        finally:
            await asyncio.shield(self._end(blocks))

    async def _pass_on(self, blocks: _Blocks, send: Send, gone: "asyncio.Task[None]") -> None:
        first = True
        gone.add_done_callback(blocks.wake)
        while not gone.done():
            with self._call.watch:
                content, ended = await blocks.take()
            last = b""
            try:
                if content:
                    await self._keep(content)
                if ended:
                    last = await self._close(blocks)
            except StoreUnavailable as error:
                content, last, ended = b"", _event(503, "store_unavailable", str(error)), True
            if gone.done():
                return
            if content or last or ended:
                await send({"type": "http.response.body", "body": content + last, "more_body": not ended})
            if first and content:
                first = False
                self._gateway.metrics.added.add(self._call.watch.added)
            if ended:
                return

    async def _keep(self, content: bytes) -> None:
        """Put what a block says into the store. The block that ends the answer completes it there."""
        changed = self._read(self._events.feed(content))
        if self._draft is None or self._state is not None:
            return
        if self._answer.done:
            await self._finish(True)
        elif changed:
            await self._gateway.writer.write(lambda: self._draft.so_far(changed) if self._draft else {})

    def _read(self, values: list[Any]) -> set[str]:
        changed: set[str] = set()
        for value in values:
            if value is EventStream.DONE:
                self._answer.done = True
            else:
                changed |= self._answer.add(value)
        return changed

    async def _close(self, blocks: _Blocks) -> bytes:
        """Complete the answer in the store, and return the event of an error if the upstream broke it off."""
        self._read(self._events.close())
        if blocks.error is None:
            await self._finish(self._answer.done or self._answer.finish_reason is not None)
            return b""
        await self._finish(self._answer.done)
        if self._answer.done:
            return b""
        error: UpstreamError = self._gateway.upstream.broke_off(blocks.error)
        # An event that the upstream broke off in would swallow this one.
        return b"\n\n" + _event(error.status, error.code, error.message)

    async def _finish(self, complete: bool) -> None:
        if self._state is not None:
            return
        if self._draft is not None and self._answer.channels:
            draft, size = self._draft, sum(map(len, self._answer.channels.values()))
            await self._gateway.write_soon(lambda: draft.finished(complete), size)
        self._state = COMPLETE if complete else BROKEN

    async def _end(self, blocks: _Blocks) -> None:
        """Leave nothing open, however the answer ended."""
        await blocks.close()
        self._response.release()
        try:
            await self._finish(self._answer.done)
        except StoreUnavailable:
            pass  # what was stored of it before stays there
        finally:
            self._gateway.count(self._turn, self._state if self._answer.channels else None)
            self._gateway.stitcher.release(self._turn.place)


def _event(status: int, code: str, message: str) -> bytes:
    return b"data: " + json.dumps(error_body(status, code, message)).encode() + b"\n\n"
