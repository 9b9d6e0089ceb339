"""The chat's page and its server on 127.0.0.1. It passes messages on to the gateway and keeps none.

Other pages in the same browser must not reach it: it answers to its own host name alone, and every request that does
something carries a token that only its page has.
"""

import asyncio
import hmac
import json
import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sdpo.chat.client import Answer, ChatClient
from sdpo.chat.conversation import Interaction
from sdpo.chat.session import base_name, options_of
from sdpo.chat.signal import NO_MODEL, Signal, SignalScorer
from sdpo.errors import SdpoError, SettingError
from sdpo.runtime.page import data_block, page_text, policy
from sdpo.signal.cells import number_text, shown
from sdpo.signal.colours import colour, ink, mark, scale_labels
from sdpo.text.prompts import Message

if TYPE_CHECKING:
    from sdpo.settings import ChatSettings

HOSTS = ["127.0.0.1", "localhost"]
_TOKEN = "x-chat-token"
_MOST_BYTES = 4 << 20  # of a request

_BODY = Markup("""<header><h1>Chat</h1><p>talking to {live} at {url}</p></header>
<main id="log" role="log" aria-live="polite" aria-label="Conversation" tabindex="0"></main>
<form id="form" aria-label="Your message">
<label for="message" class="note">Your message (Enter sends, Shift+Enter is a new line, Escape stops an answer)</label>
<textarea id="message" rows="2" autofocus></textarea>
<div class="controls">
<button id="send" type="submit">Send</button>
<button id="stop" type="button">Stop</button>
<label><input type="checkbox" id="compare"> compare</label>
<button id="signal" type="button">Signal</button>
<label><input type="checkbox" id="colour"> signal after each follow-up</label>
<button id="up" type="button" title="Rate the last answer">Rate up</button>
<button id="down" type="button" title="Rate the last answer">Rate down</button>
<button id="new" type="button">New</button>
</div>
<details><summary>System message</summary><input id="system" aria-label="System message" value="{system}"></details>
</form>
{data}""")


class ChatServer:
    """The page's requests, each answered with the help of one client and one scorer."""

    def __init__(self, settings: "ChatSettings", client: ChatClient) -> None:
        self.settings, self.client = settings, client
        self.scorer = SignalScorer(settings)
        self.token = secrets.token_urlsafe(24)
        self.script = _resource("chat.js")
        self.style = _resource("chat.css")

    def app(self) -> Starlette:
        """Return the application; it opens and closes the client."""

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            async with self.client:
                yield

        routes = [
            Route("/", self.page),
            Route("/answer", self.answer, methods=["POST"]),
            Route("/signal", self.signal, methods=["POST"]),
            Route("/rate", self.rate, methods=["POST"]),
        ]
        middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)]
        errors: Any = {SdpoError: _error}
        return Starlette(routes=routes, middleware=middleware, lifespan=lifespan, exception_handlers=errors)

    async def page(self, request: Request) -> Response:
        """Return the page."""
        settings = self.settings
        data = {
            "token": self.token,
            "live": settings.served_name,
            "base": settings.base_name,
            "signal": self.scorer.usable,
            "no_signal": NO_MODEL,
        }
        body = _BODY.format(
            live=settings.served_name,
            url=self.client.shown,
            system=settings.system_prompt or "",
            data=data_block("chat-data", data),
        )
        headers = {
            "content-security-policy": policy(self.script, connect=True) + "; frame-ancestors 'none'",
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-store",
        }
        return HTMLResponse(page_text("Chat", body, self.style, self.script, connect=True), headers=headers)

    async def answer(self, request: Request) -> Response:
        """Stream an answer as lines of JSON: {"text"}, and at the end {"done"} or {"error"}."""
        body = await self._body(request)
        messages, conversation = _messages(body.get("messages")), str(body.get("conversation") or "")
        model = body.get("model") or await base_name(self.client, self.settings, self.settings.served_name)
        beside = body.get("beside") is True
        lines = self._lines(str(model), messages, conversation, beside)
        return StreamingResponse(lines, media_type="application/x-ndjson")

    async def _lines(self, model: str, messages: list[Message], conversation: str, beside: bool) -> AsyncIterator[str]:
        answer = Answer()
        try:
            async for text in self.client.answer(model, messages, conversation, answer, beside):
                yield _line({"text": text})
        except SdpoError as error:
            yield _line({"error": str(error)})
        facts = ("finished", "cut_off", "exchange", "version", "conversation")
        yield _line({"done": {name: getattr(answer, name) for name in facts}})

    async def signal(self, request: Request) -> Response:
        """Return the tokens of an answer with their signal and its colours."""
        body = await self._body(request)
        interaction = Interaction(
            _messages(body.get("prompt")),
            _text(body.get("answer"), "answer"),
            _text(body.get("follow_up"), "follow_up"),
            bool(body.get("finished", True)),
        )
        return JSONResponse(coloured(await asyncio.to_thread(self.scorer.score, interaction)))

    async def rate(self, request: Request) -> Response:
        """Pass a rating on to the gateway."""
        body = await self._body(request)
        answer = Answer(exchange=str(body.get("exchange") or ""), conversation=str(body.get("conversation") or ""))
        message, rating = body.get("message"), body.get("rating")
        if not isinstance(message, int) or rating not in (1, -1):
            raise SettingError("a rating is 1 or -1, of the message with a number")
        await self.client.rate(answer, message, rating)
        return JSONResponse({})

    async def _body(self, request: Request) -> dict[str, Any]:
        """Return the object in a request. Raises SettingError for another, or one without the page's token."""
        if not hmac.compare_digest(request.headers.get(_TOKEN, "").encode(), self.token.encode()):
            raise SettingError("this request is not from the chat's page: reload it.")
        if int(request.headers.get("content-length") or _MOST_BYTES + 1) > _MOST_BYTES:
            raise SettingError("the conversation is too long for the page. Start a new one.")
        try:
            body = await request.json()
        except ValueError:
            raise SettingError("the request is no JSON") from None
        if not isinstance(body, dict):
            raise SettingError("the request is no object")
        return body


def coloured(signal: Signal) -> dict[str, Any]:
    """Return a signal as the page draws it: each token with its colours, and the scale."""
    limit = signal.limit
    tokens = [
        {"text": shown(piece), "value": number_text(value), "mark": mark(value, limit), **_colours(value, limit)}
        | ({"breaks": True} if piece.endswith("\n") else {})
        for piece, value in zip(signal.tokens, signal.values, strict=True)
    ]
    scale = [
        {"text": label, **_colours(share * limit, limit)}
        for label, share in zip(scale_labels(limit), (-1, -0.25, 0, 0.25, 1), strict=True)
    ]
    return {"tokens": tokens, "scale": scale, "size": f"{signal.size:.3f}"}


def _colours(value: float, limit: float) -> dict[str, str]:
    background = colour(value, limit)
    return {"background": f"#{''.join(f'{part:02x}' for part in background)}", "ink": ink(background)}


def serve(settings: "ChatSettings") -> int:
    """Serve the page on 127.0.0.1 until Ctrl-C and return the exit code. Raises SettingError if the port is taken."""
    import uvicorn

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", settings.page_port))
    except OSError as error:
        raise SettingError(
            f"PAGE_PORT={settings.page_port} cannot be used ({error.strerror}). Give another, or 0 for any free one."
        ) from None
    client = ChatClient(settings.gateway_url, settings.gateway_api_key, settings.chat_timeout, options_of(settings))
    app = ChatServer(settings, client).app()
    listener.listen()  # before the address is printed: who opens it at once waits instead of being refused
    print(f"chat: http://127.0.0.1:{listener.getsockname()[1]}/ until Ctrl-C", flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def _messages(value: Any) -> list[Message]:
    """Return messages that a page sent. Raises SettingError if they are none."""
    messages: list[Message] = []
    for item in value if isinstance(value, list) else []:
        if not isinstance(item, dict) or item.get("role") not in ("system", "user", "assistant"):
            raise SettingError("a message has no role")
        messages.append({"role": item["role"], "content": _text(item.get("content"), "content")})
    if not messages:
        raise SettingError("there is no message")
    return messages


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise SettingError(f"{name} is no text")
    return value


def _line(event: dict[str, Any]) -> str:
    return json.dumps(event) + "\n"


def _resource(name: str) -> str:
    return resources.files("sdpo.chat").joinpath(name).read_text("utf-8")


async def _error(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, status_code=400)
