"""A server for the gateway's tests that streams, calls tools, waits, breaks off and fails, over real HTTP."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOOL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}


class Upstream:
    """Answers a chat request with `answer(body)`: a text, or a message, an HTTP status with a body, or bytes.

    A streamed text comes in pieces of `size` characters with `pause` seconds between them. A request with tools gets
    a call of one in the place of a text. `break_after` closes the connection after so many events.
    """

    def __init__(self, answer: Callable[[dict], Any] | None = None) -> None:
        self.reset()
        self.answer = answer or self.answer

    def reset(self) -> None:
        """Answer as at first, and forget the requests so far."""
        self.answer = lambda body: f"You said: {body['messages'][-1]['content']}"
        models = [{"id": "base-model", "object": "model", "created": 1, "owned_by": "me"}]
        self.models = (200, json.dumps({"object": "list", "data": models}).encode())
        self.pause, self.size, self.delay = 0.0, 4, 0.0
        self.break_after: int | None = None
        self.cookie = ""
        self.bodies: list[Any] = []
        self.raw: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.sent: list[bytes] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def __enter__(self) -> "Upstream":
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                pass

            def handle_any(self) -> None:
                length = int(self.headers.get("content-length", 0))
                content = self.rfile.read(length) if length else b""
                with upstream._lock:
                    upstream.paths.append(f"{self.command} {self.path}")
                    upstream.headers.append({name.lower(): value for name, value in self.headers.items()})
                    upstream.raw.append(content)
                try:
                    upstream._respond(self, content)
                except OSError:
                    self.close_connection = True

            do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = handle_any

        class Server(ThreadingHTTPServer):
            request_queue_size = 1024
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def _respond(self, handler: BaseHTTPRequestHandler, content: bytes) -> None:
        if "/chat/completions" not in handler.path:
            if handler.path == "/v1/models":
                return _send(handler, *self.models)
            echo = {"path": handler.path, "method": handler.command, "body": content.decode("latin-1")}
            return _send(handler, 200, json.dumps(echo).encode(), {"Set-Cookie": self.cookie} if self.cookie else {})
        body = json.loads(content)
        with self._lock:
            self.bodies.append(body)
        self._closing.wait(self.delay)
        given = self.answer(body)
        if isinstance(given, tuple):
            return _send(handler, *given)
        if isinstance(given, str):
            calls = {"content": None, "tool_calls": [TOOL]} if body.get("tools") else {}
            given = {"role": "assistant", "content": given} | calls
        if not body.get("stream"):
            return _send(handler, 200, json.dumps(completion(given, body)).encode())
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        whole = b""
        for number, event in enumerate(events(given, body, self.size)):
            if number == self.break_after:
                handler.close_connection = True
                handler.connection.close()
                return None
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
            handler.wfile.flush()
            whole += event
            if self.pause:
                self._closing.wait(self.pause)
        handler.wfile.write(b"0\r\n\r\n")
        handler.wfile.flush()
        self.sent.append(whole)
        return None


def _send(handler: BaseHTTPRequestHandler, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def completion(message: dict, body: dict) -> dict:
    reason = "tool_calls" if message.get("tool_calls") else "stop"
    choice = {"index": 0, "message": message, "finish_reason": reason}
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    return {"id": "c1", "object": "chat.completion", "created": int(time.time()), "model": body.get("model"),
            "choices": [choice], "usage": usage}  # fmt: skip


def events(message: dict, body: dict, size: int) -> Iterator[bytes]:
    """Yield the events of a streamed message; lines end in LF and in CRLF, and a comment is among them."""
    text = message.get("content") or ""
    deltas: list[dict] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": text[at : at + size]} for at in range(0, len(text), size)]
    for number, call in enumerate(message.get("tool_calls") or []):
        name, arguments = call["function"]["name"], call["function"]["arguments"]
        parts = [arguments[at : at + size] for at in range(0, len(arguments), size)]
        calls = [{"index": number, **call, "function": {"name": name, "arguments": ""}}]
        calls += [{"index": number, "function": {"arguments": part}} for part in parts]
        deltas += [{"tool_calls": [one]} for one in calls]
    reason = "tool_calls" if message.get("tool_calls") else "stop"
    frame = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": body.get("model")}
    yield b": a comment\n\n"
    for delta, end in zip(deltas, itertools.cycle((b"\n\n", b"\r\n\r\n"))):
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        yield b"data: " + json.dumps({**frame, "choices": [choice]}).encode() + end
    yield (
        b"data: "
        + json.dumps({**frame, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}).encode()
        + b"\n\n"
    )
    yield b"data: [DONE]\n\n"
