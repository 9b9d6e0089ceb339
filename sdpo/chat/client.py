"""The chat's requests to the gateway or any other OpenAI-compatible server: answers as they come, models, ratings."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import httpx

from sdpo.errors import ServerError, SettingError, command, on_one_line
from sdpo.llm.address import checked_url, credentials, has_version, is_loopback, shown_url
from sdpo.text.prompts import Message

# The name that the chat gives its conversation, a request that is no part of one, and what the gateway says.
OWN_CONVERSATION, BESIDE = "x-conversation-id", "x-sdpo-beside"
CONVERSATION, EXCHANGE, VERSION = "x-sdpo-conversation", "x-sdpo-exchange", "x-sdpo-version"
_CONNECT_SECONDS = 10.0
# Less than the 5 s after which uvicorn closes an idle connection: a message must not meet one that just closes.
_KEEP_ALIVE_SECONDS = 2.0
_CUT_OFF = {
    "length": "the answer was cut off at its maximum length (MAX_COMPLETION_TOKENS, or the server's)",
    "content_filter": "the server's filter ended the answer",
}
_SHOWN = 300  # characters of a server's own words in an error


@dataclass
class Answer:
    """An answer as it comes: `text` grows. `reason` is why it ended, in OpenAI's words; empty while it has not."""

    text: str = ""
    model: str = ""
    version: str = ""
    exchange: str = ""
    conversation: str = ""
    reason: str = ""

    @property
    def finished(self) -> bool:
        """Whether the model ended the answer itself."""
        return self.reason == "stop"

    @property
    def cut_off(self) -> str:
        """What ended the answer before its end, in a sentence; empty if nothing did."""
        return _CUT_OFF.get(self.reason, "")


@dataclass
class ChatClient:
    """A connection to one server, whose answers come in parts. Use as an async context manager.

    A person waits for the parts of these answers; a job that needs whole replies uses `sdpo.llm.Client`.
    Every method raises ServerError, in one line that names the address, if the server is down, refuses or breaks off.
    """

    url: str
    api_key: str | None = None
    timeout: float = 120.0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """The server's address without a user or password."""
        return shown_url(checked_url(self.url, "GATEWAY_URL"))

    async def __aenter__(self) -> "ChatClient":
        url, basic = credentials(checked_url(self.url, "GATEWAY_URL"))
        url = url if has_version(url) else f"{url}/v1"
        headers = {"authorization": basic} if basic else {}
        if self.api_key and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise SettingError("GATEWAY_API_KEY contains characters that no key has. Copy it again.")
        if self.api_key:
            headers["authorization"] = f"Bearer {self.api_key}"
        self._http = httpx.AsyncClient(
            base_url=url + "/",
            headers=headers,
            timeout=httpx.Timeout(self.timeout, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(keepalive_expiry=_KEEP_ALIVE_SECONDS),
            trust_env=not is_loopback(url),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def answer(
        self,
        model: str,
        messages: Sequence[Message],
        conversation: str,
        into: Answer | None = None,
        beside: bool = False,
    ) -> AsyncIterator[str]:
        """Yield the answer's text in parts, as they come; `into` is filled on the way.

        A gateway keeps an answer that is asked for `beside` the conversation out of its store.
        Closing the iterator ends the request, and with it the server's work on it.
        """
        into = Answer() if into is None else into
        into.model, into.conversation = model, conversation
        body = {"model": model, "messages": list(messages), "stream": True, **self.options}
        headers = {BESIDE: "1"} if beside else {OWN_CONVERSATION: conversation}
        try:
            async with self._http.stream("POST", "chat/completions", json=body, headers=headers) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise self._refused(response)
                into.version = response.headers.get(VERSION, "")
                into.exchange = response.headers.get(EXCHANGE, "")
                into.conversation = response.headers.get(CONVERSATION, conversation)
                streams = "text/event-stream" in response.headers.get("content-type", "")
                parts = _streamed(response, self.shown) if streams else _whole(response)
                async for text, reason in parts:
                    into.reason = reason or into.reason
                    if text:
                        into.text += text
                        yield text
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise self._down(error) from None
        except ValueError:
            raise ServerError(
                f"{self.shown} sent something that is no chat completion. Check GATEWAY_URL: it ends in /v1."
            ) from None

    async def models(self) -> list[str]:
        """Return the names of the models that the server lists."""
        body = await self._json("GET", "models")
        rows = body.get("data") if isinstance(body, dict) else None
        return [str(row["id"]) for row in rows or [] if isinstance(row, dict) and "id" in row]

    async def rate(self, answer: Answer, message: int, rating: int, comment: str | None = None) -> None:
        """Send a rating, 1 or -1, of an answer; `message` is its index in the conversation."""
        body: dict[str, Any] = {"conversation": answer.conversation, "exchange": answer.exchange, "message": message}
        body |= {"rating": rating, **({"comment": comment} if comment else {})}
        await self._json("POST", "feedback", body)

    async def _json(self, method: str, path: str, body: Any = None) -> Any:
        try:
            response = await self._http.request(method, path, json=body)
            if response.status_code >= 400:
                raise self._refused(response)
            return response.json() if response.content else None
        except httpx.HTTPError as error:
            raise self._down(error) from None
        except ValueError:
            raise ServerError(f"{self.shown}/{path} did not answer in JSON. Check GATEWAY_URL.") from None

    def _down(self, error: Exception) -> ServerError:
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return ServerError(
                f"nothing answers at {self.shown}. Start it ({command('gateway')}), or give another GATEWAY_URL."
            )
        if isinstance(error, httpx.TimeoutException):
            return ServerError(f"{self.shown} sent nothing for {self.timeout:g} s. Try again, or raise CHAT_TIMEOUT.")
        return ServerError(f"{self.shown} broke off its answer ({type(error).__name__}). Try again.")

    def _refused(self, response: httpx.Response) -> ServerError:
        """Return what the server said, in its own words: its message, else its text."""
        words = response.text
        try:
            body = response.json()
            found = body.get("error", body.get("detail", body)) if isinstance(body, dict) else body
            words = str(found.get("message", found)) if isinstance(found, dict) else str(found)
        except ValueError:
            pass
        hint = {401: " Set GATEWAY_API_KEY.", 403: " Set GATEWAY_API_KEY.", 404: " Check GATEWAY_URL and the model."}
        text = on_one_line(words, _SHOWN) or response.reason_phrase
        text += "" if text.endswith((".", "!", "?")) else "."
        return ServerError(f"{self.shown}: {response.status_code}, {text}{hint.get(response.status_code, '')}")


async def _streamed(response: httpx.Response, server: str) -> AsyncIterator[tuple[str, str | None]]:
    """Yield (text, finish reason) of each event of a stream. Raises ServerError for an error in the stream."""
    done = False
    async for line in _lines(response):
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            done = True
            break
        event = json.loads(data)
        if not isinstance(event, dict):
            raise ValueError("an event is no object")
        if error := event.get("error"):
            words = error.get("message", error) if isinstance(error, dict) else error
            raise ServerError(f"{server} ended its answer with an error: {on_one_line(str(words), _SHOWN)}")
        for choice in event.get("choices") or []:
            reason = choice.get("finish_reason")
            done = done or reason is not None
            yield _content(choice.get("delta")), reason
    if not done:
        raise httpx.RemoteProtocolError("the stream ended before the answer did")


async def _lines(response: httpx.Response) -> AsyncIterator[str]:
    """Yield the lines of a stream. httpx would also end one at characters such as U+2028, which JSON may hold."""
    rest = b""
    async for block in response.aiter_bytes():
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line.decode("utf-8", "replace").rstrip("\r")
    yield rest.decode("utf-8", "replace")


async def _whole(response: httpx.Response) -> AsyncIterator[tuple[str, str | None]]:
    """Yield the text and the finish reason of an answer that was not streamed."""
    await response.aread()
    body = response.json()
    choices = body.get("choices") if isinstance(body, dict) else None
    if not choices or not isinstance(choices[0], dict):
        raise ValueError("no choices")
    yield _content(choices[0].get("message")), choices[0].get("finish_reason")


def _content(message: Any) -> str:
    """Return the text of a message or a part of one: some servers send it as a list of parts."""
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
