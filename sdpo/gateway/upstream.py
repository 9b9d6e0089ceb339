"""The server behind the gateway: requests to it, and the error that a client gets when it does not answer."""

import asyncio
import posixpath
import time
from collections.abc import AsyncIterable, Iterable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import quote

import httpx

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
_POOL_SIZE = 16  # connections: to find a free one in a pool takes a time that grows with the square of their number
_POOL = "sdpo_pool"


class UpstreamError(Exception):
    """The upstream gave no answer; `status` is what the client gets."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class _Pool:
    """Some of the connections, and how many requests they answer."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client, self.active = client, 0


class Upstream:
    """A client of the server at `url`."""

    def __init__(self, url: str, api_key: str | None, timeout: float, at_once: int) -> None:
        url, basic = credentials(api_url(url, "UPSTREAM"))
        self.shown = shown_url(url)
        self._base = url
        self._root = url.removesuffix("/v1") if url.endswith("/v1") else None
        self._timeout = timeout
        self._authorization = f"Bearer {api_key}" if api_key else basic
        trust = httpx.create_ssl_context() if url.startswith("https:") else False  # takes 0.1 s, so only once
        self._pools = [
            _Pool(
                httpx.AsyncClient(
                    timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS), pool=None),
                    limits=httpx.Limits(max_connections=None, max_keepalive_connections=_POOL_SIZE),
                    verify=trust,
                    trust_env=not is_loopback(url),
                    follow_redirects=False,
                    # Kept for all clients, a cookie that the server gave to one would be sent with others' requests.
                    cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                )
            )
            for _ in range(max(1, at_once // _POOL_SIZE))
        ]
        self._first_model: tuple[float, str | None] = (float("-inf"), None)

    async def close(self) -> None:
        """Close all connections."""
        for pool in self._pools:
            await pool.client.aclose()

    def _pool(self) -> "_Pool":
        """Return the first pool that has room, else the one with the fewest requests."""
        free = (pool for pool in self._pools if pool.active < _POOL_SIZE)
        return next(free, None) or min(self._pools, key=lambda pool: pool.active)

    async def release(self, response: httpx.Response) -> None:
        """Close a response, so that its connection can be used again."""
        pool = response.extensions.pop(_POOL, None)
        if pool is not None:
            pool.active -= 1
        await response.aclose()

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
    ) -> httpx.Response:
        """Send a request and return the response, whose body is not read yet. Raises UpstreamError.

        `length` is that of a content which comes in parts.
        """
        passed = self._headers(headers)
        passed += [("content-length", length)] if length is not None and content is not None else []
        pool = self._pool()
        try:
            request = pool.client.build_request(method, self.address(path, query), headers=passed, content=content)
        except (httpx.InvalidURL, ValueError) as error:
            raise UpstreamError(400, "invalid_path", f"The path cannot be passed on ({_words(error)}).") from None
        pool.active += 1
        try:
            response = await self._sent(pool.client, request, again=isinstance(content, bytes))
        except BaseException:
            pool.active -= 1
            raise
        response.extensions[_POOL] = pool
        return response

    async def _sent(self, client: httpx.AsyncClient, request: httpx.Request, again: bool) -> httpx.Response:
        started = time.monotonic()
        try:
            return await client.send(request, stream=True)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            # The upstream closed a connection that it had kept, at the moment at which this request took it.
            no_answer = not isinstance(error, httpx.RemoteProtocolError) or "without sending a response" in str(error)
            if again and no_answer and time.monotonic() - started < _STALE_SECONDS:
                return await self._sent(client, request, again=False)
            raise self._failed(error) from None
        except httpx.HTTPError as error:
            raise self._failed(error) from None

    async def read(self, response: httpx.Response) -> bytes:
        """Return the whole body of a response. Raises UpstreamError."""
        try:
            return await response.aread()
        except httpx.HTTPError as error:
            raise self.broke_off(error) from None
        finally:
            await self.release(response)

    def broke_off(self, error: httpx.HTTPError) -> UpstreamError:
        """Return the error of an answer that ended before its end."""
        if isinstance(error, httpx.TimeoutException):
            return self._failed(error)
        return UpstreamError(
            502, "upstream_broke_off", f"The upstream {self.shown} broke its answer off ({_words(error)})."
        )

    async def models(self, headers: Iterable[tuple[str, str]] = ()) -> tuple[httpx.Response, dict[str, Any] | None]:
        """Return the upstream's response to a request for its models, and the list; None if it gave none.

        Raises UpstreamError.
        """
        response = await self.send("GET", "/v1/models", headers, None)
        await self.read(response)
        try:
            listed = response.json()
        except ValueError:
            return response, None
        return response, listed if response.status_code == 200 and isinstance(listed, dict) else None

    async def first_model(self) -> str | None:
        """Return the first model that the upstream lists, remembered for a while; None if it does not answer soon.

        Raises UpstreamError if it answers and lists none.
        """
        asked_at, name = self._first_model
        if name is None or time.monotonic() - asked_at > _MODELS_SECONDS:
            try:
                async with asyncio.timeout(_LIST_SECONDS):
                    _, listed = await self.models()
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
        try:
            response = await self._pool().client.get(
                self.address("/health"), headers=self._headers([]), timeout=httpx.Timeout(min(self._timeout, 3.0))
            )
        except httpx.HTTPError as error:
            return _words(error)
        return None if response.status_code < 500 else f"status {response.status_code}"

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
        if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError):
            status = 504 if isinstance(error, httpx.ConnectTimeout) else 502
            return UpstreamError(
                status, "upstream_unreachable", f"The upstream {self.shown} cannot be reached ({_words(error)})."
            )
        if isinstance(error, httpx.TimeoutException):
            return UpstreamError(
                504, "upstream_timeout", f"The upstream {self.shown} was silent for {self._timeout:g} seconds."
            )
        return UpstreamError(502, "upstream_error", f"The upstream {self.shown} gave no answer ({_words(error)}).")


async def what_it_serves(url: str, api_key: str | None, timeout: float) -> str:
    """Return in a sentence whether the server answers, and the models it lists."""
    upstream = Upstream(url, api_key, min(timeout, _LIST_SECONDS), 1)
    try:
        response, listed = await upstream.models()
    except UpstreamError as error:
        return f"warning: {error.message} The gateway starts all the same."
    finally:
        await upstream.close()
    if listed is None:
        return f"warning: {upstream.shown} answers {response.status_code} when it is asked for its models."
    names = [str(one["id"]) for one in models_in(listed) if "id" in one]
    return f"{upstream.shown} answers and serves: {', '.join(names) or 'no model by name (set UPSTREAM_MODEL)'}"


def response_headers(response: httpx.Response, *, decoded: bool = False) -> list[tuple[bytes, bytes]]:
    """Return the headers of a response to pass on; `decoded` if its body is passed on decompressed or changed."""
    raw = [(name.lower(), value) for name, value in response.headers.raw]
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


def _words(error: Exception) -> str:
    return one_line(error, 120)
