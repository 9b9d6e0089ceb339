"""What the gateway itself says to a client, in the form of OpenAI's interface, and whether the client still listens."""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Receive

_KINDS = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error"}


def error_body(status: int, code: str, message: str) -> dict[str, Any]:
    """Return the body of an error."""
    kind = "rate_limit_error" if status == 429 else _KINDS.get(status, "api_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def error(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None, retry_after: float = 0.0
) -> JSONResponse:
    """Return an error as a response."""
    extra = dict(headers or {})
    if retry_after:
        extra["retry-after"] = str(math.ceil(retry_after))
    if status == 401:
        extra["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(status, code, message), status, extra)


class Gone(Exception):
    """The client disconnected."""


@asynccontextmanager
async def listening(receive: Receive) -> AsyncIterator[asyncio.Task[None]]:
    """Yield a task that ends when the client disconnects. The request's body must have been read."""

    async def wait() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task = asyncio.create_task(wait())
    try:
        yield task
    finally:
        task.cancel()


async def unless_gone(work: asyncio.Task[Any], gone: asyncio.Task[None]) -> Any:
    """Return what the work returns. If the client disconnects first, cancel it and raise Gone."""
    await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
    if not work.done():
        work.cancel()
        await asyncio.wait({work})
        raise Gone
    return work.result()
