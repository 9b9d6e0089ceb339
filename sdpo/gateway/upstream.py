"""The server behind the gateway: requests to it, and the error that a client gets when it does not answer."""

import asyncio
import json
import os
import posixpath
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx
from yarl import URL

from sdpo.errors import one_line
from sdpo.gateway.identity import OWN_HEADERS
from sdpo.llm.address import api_url, credentials, is_loopback, shown_url

# Headers about one connection, and those that the gateway makes itself.
_HOP_BY_HOP = {
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "trailers", "transfer-encoding", "upgrade",
}  # fmt: skip
_NOT_FORWARDED = _HOP_BY_HOP | {"host", "content-length", "authorization", "x-api-key", "cookie", "expect"}
# Paths that change what a server serves: they are for `make learn` and the operator, not for who has a key.
_OPERATOR = (
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/adapters",
    "/v1/adapters",
)  # vLLM has them under both names
_CONNECT_SECONDS = 10.0
_MODELS_SECONDS = 30.0
_STALE_SECONDS = 1.0  # within which a connection that was closed meanwhile fails
_LIST_SECONDS = 5.0
_HEALTH_SECONDS = 3.0
_KEPT_SECONDS = 4.0  # that a connection may be idle: uvicorn, of which most servers are made, closes it after 5
_HEADER_BYTES = 2**16
_HEADERS = 1000
_ADDED = ("accept", "accept-encoding", "content-type", "user-agent")  # which aiohttp would put into a request


class UpstreamError(Exception):
    """The upstream gave no answer; `status` is what the client gets."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Upstream:
    """A client of the server at `url`. Silence of more than `timeout` seconds is an error.

    aiohttp's client, since a request of httpx's takes six times the work, which was half of what the gateway adds.
    """

    def __init__(self, url: str, api_key: str | None, timeout: float) -> None:
        url, basic = credentials(api_url(url, "UPSTREAM"))
        self.shown = shown_url(url)
        self._base = url
        self._root = url.removesuffix("/v1") if url.endswith("/v1") else None
        self._timeout = timeout
        self._authorization = f"Bearer {api_key}" if api_key else basic
        self._opened: aiohttp.ClientSession | None = None
        self._first_model: tuple[float, str | None] = (float("-inf"), None)

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._opened is None:  # not before: a session belongs to the loop that runs
            trust = httpx.create_ssl_context() if self._base.startswith("https:") else True  # the same as our clients'
            self._opened = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_SECONDS, ssl=trust),
                # Kept for all clients, a cookie that the server gave to one would be sent with others' requests.
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=min(self._timeout, _CONNECT_SECONDS), sock_read=self._timeout
                ),
                proxy=_proxy(self._base),
                skip_auto_headers=_ADDED,
                max_line_size=_HEADER_BYTES,
                max_field_size=_HEADER_BYTES,
                max_headers=_HEADERS,
            )
        return self._opened

    async def close(self) -> None:
        """Close all connections."""
        if self._opened is not None:
            await self._opened.close()

    def address(self, path: str, query: str = "") -> str:
        """Return the upstream's address of a path of the gateway, as it is on the wire."""
        if self._root is not None:
            address = self._root + path
        else:
            address = self._base + (path.removeprefix("/v1") if path.startswith("/v1/") else path)
        return f"{address}?{query}" if query else address

    async def send(
        self,
        method: str,
        path: str,
        headers: Iterable[tuple[str, str]],
        content: bytes | AsyncIterable[bytes] | None,
        query: str = "",
        length: str | None = None,
        untouched: bool = False,
    ) -> aiohttp.ClientResponse:
        """Send a request and return the response, whose body is not read yet. Raises UpstreamError.

        `length` is that of a content which comes in parts. The response's body is decompressed, unless `untouched`. It
        is to be released at the end, which `read` does.
        """
        passed = self._headers(headers)
        passed += [("content-length", length)] if length is not None and content is not None else []
        try:
            url = URL(self.address(path, query), encoded=True)
            return await self._sent(method, url, passed, content, not untouched, again=isinstance(content, bytes))
        except (aiohttp.InvalidURL, ValueError) as error:
            raise UpstreamError(400, "invalid_path", f"The path cannot be passed on ({_words(error)}).") from None

    async def _sent(
        self,
        method: str,
        url: URL,
        headers: list[tuple[str, str]],
        content: bytes | AsyncIterable[bytes] | None,
        decompress: bool,
        again: bool,
    ) -> aiohttp.ClientResponse:
        started = time.monotonic()
        try:
            return await self._session.request(
                method, url, headers=headers, data=content, allow_redirects=False, auto_decompress=decompress
            )
        except aiohttp.InvalidURL:
            raise
        except aiohttp.ClientError as error:
            # The upstream closed a connection that it had kept, at the moment at which this request took it.
            closed = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
            closed &= not isinstance(error, aiohttp.ClientConnectorError)
            if again and closed and time.monotonic() - started < _STALE_SECONDS:
                return await self._sent(method, url, headers, content, decompress, again=False)
            raise self._failed(error) from None

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """Return the whole body of a response. Raises UpstreamError."""
        try:
            return await response.read()
        except aiohttp.ClientError as error:
            raise self.broke_off(error) from None
        finally:
            response.release()

    def broke_off(self, error: aiohttp.ClientError) -> UpstreamError:
        """Return the error of an answer that ended before its end."""
        if isinstance(error, TimeoutError):
            return self._failed(error)
        return UpstreamError(
            502, "upstream_broke_off", f"The upstream {self.shown} broke its answer off ({_words(error)})."
        )

    async def models(
        self, headers: Iterable[tuple[str, str]] = ()
    ) -> tuple[aiohttp.ClientResponse, bytes, dict[str, Any] | None]:
        """Return the upstream's response to a request for its models, its body, and the list; None if it gave none.

        Raises UpstreamError.
        """
        response = await self.send("GET", "/v1/models", headers, None)
        content = await self.read(response)
        try:
            listed = json.loads(content)
        except ValueError:
            return response, content, None
        return response, content, listed if response.status == 200 and isinstance(listed, dict) else None

    async def first_model(self) -> str | None:
        """Return the first model that the upstream lists, remembered for a while; None if it does not answer soon.

        Raises UpstreamError if it answers and lists none.
        """
        asked_at, name = self._first_model
        if name is None or time.monotonic() - asked_at > _MODELS_SECONDS:
            try:
                async with asyncio.timeout(_LIST_SECONDS):
                    _, _, listed = await self.models()
            except (UpstreamError, TimeoutError):
                return name  # the request itself will say what the matter is
            name = next((one["id"] for one in models_in(listed) if isinstance(one.get("id"), str)), None)
            self._first_model = (time.monotonic(), name)
            if name is None:
                text = f"The upstream {self.shown} lists no model. Set UPSTREAM_MODEL to the one it serves."
                raise UpstreamError(502, "no_model", text)
        return name

    async def healthy(self) -> str | None:
        """Return None if the upstream answers, else what is the matter. One that has no /health answers that too."""
        limit = aiohttp.ClientTimeout(total=min(self._timeout, _HEALTH_SECONDS))
        address = URL(self.address("/health"), encoded=True)
        asked = self._session.get(address, headers=self._headers([]), allow_redirects=False, timeout=limit)
        try:
            async with asked as response:
                return None if response.status < 500 else f"status {response.status}"
        except (aiohttp.ClientError, TimeoutError) as error:
            return _words(error)

    def _headers(self, headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        given = [(name.lower(), value) for name, value in headers]
        dropped = _NOT_FORWARDED | connection_headers(given)
        kept = [(name, value) for name, value in given if name not in dropped and not name.startswith(OWN_HEADERS)]
        if self._authorization:
            kept.append(("authorization", self._authorization))
        if not any(name == "user-agent" for name, _ in kept):
            kept.append(("user-agent", "sdpo-gateway"))
        return kept

    def _failed(self, error: Exception) -> UpstreamError:
        if isinstance(error, aiohttp.ConnectionTimeoutError | aiohttp.ClientConnectorError):
            status = 504 if isinstance(error, TimeoutError) else 502
            return UpstreamError(
                status, "upstream_unreachable", f"The upstream {self.shown} cannot be reached ({_words(error)})."
            )
        if isinstance(error, TimeoutError):
            return UpstreamError(
                504, "upstream_timeout", f"The upstream {self.shown} was silent for {self._timeout:g} seconds."
            )
        return UpstreamError(502, "upstream_error", f"The upstream {self.shown} gave no answer ({_words(error)}).")


async def blocks_of(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the body of a response as it comes. Raises aiohttp.ClientError where it breaks off."""
    try:
        async for block in response.content.iter_any():
            yield block
    except aiohttp.ClientError:
        # aiohttp gives the error in place of what arrived just before it, which is the client's all the same.
        if rest := response.content._read_nowait(-1):
            yield rest
        raise


async def what_it_serves(url: str, api_key: str | None, timeout: float) -> str:
    """Return in a sentence whether the server answers, and the models it lists."""
    upstream = Upstream(url, api_key, min(timeout, _LIST_SECONDS))
    try:
        response, _, listed = await upstream.models()
    except UpstreamError as error:
        return f"warning: {error.message} The gateway starts all the same."
    finally:
        await upstream.close()
    if listed is None:
        return f"warning: {upstream.shown} answers {response.status} when it is asked for its models."
    names = [str(one["id"]) for one in models_in(listed) if "id" in one]
    return f"{upstream.shown} answers and serves: {', '.join(names) or 'no model by name (set UPSTREAM_MODEL)'}"


def response_headers(response: aiohttp.ClientResponse, *, decoded: bool = False) -> list[tuple[bytes, bytes]]:
    """Return the headers of a response to pass on; `decoded` if its body is passed on decompressed or changed."""
    raw = [(name.lower(), value) for name, value in response.raw_headers]
    dropped = _HOP_BY_HOP | connection_headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in raw)
    # Date and Server are the gateway's own.
    dropped |= {"date", "server", "content-length", "content-encoding"} if decoded else {"date", "server"}
    return [(name, value) for name, value in raw if name.decode("latin-1") not in dropped]


def connection_headers(headers: Iterable[tuple[str, str]]) -> set[str]:
    """Return the names of the headers that `Connection` says are about this connection only."""
    return {name.strip().lower() for header, value in headers if header == "connection" for name in value.split(",")}


def models_in(listed: Any) -> list[dict[str, Any]]:
    """Return the models of a list as the interface gives it."""
    data = listed.get("data") if isinstance(listed, Mapping) else None
    return [one for one in data if isinstance(one, dict)] if isinstance(data, list) else []


def for_operators(path: str) -> bool:
    """Return whether a path changes what the upstream serves."""
    return posixpath.normpath("/" + path.lstrip("/")).lower().startswith(_OPERATOR)


def raw_path(scope: Mapping[str, Any]) -> str:
    """Return the path of a request as it was on the wire. Raises UpstreamError for what is no path."""
    raw = scope.get("raw_path")
    path = raw.decode("latin-1").partition("?")[0] if raw else quote(scope["path"])
    if not path.startswith("/"):  # put behind the upstream's address, it could name another server
        raise UpstreamError(400, "invalid_path", "The path does not begin with a slash.")
    return path


def is_chat(method: str, path: str) -> bool:
    """Return whether a request is for a chat completion, in whichever way its path is written."""
    return method == "POST" and posixpath.normpath("/" + path.strip("/")).endswith("/chat/completions")


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment names for an address, None for a server on this machine."""
    parts = urlsplit(url)
    if is_loopback(url) or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    named = getproxies()
    return named.get(parts.scheme) or named.get("all")


def _words(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError) and error.os_error.errno:
        number = error.os_error.errno
        return os.strerror(number) if number > 0 else one_line(error.os_error, 120)
    return one_line(error, 120) or "no answer in time"
