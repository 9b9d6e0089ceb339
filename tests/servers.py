"""A server in this process with scripted answers, for the protocols of OpenAI and Anthropic."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Answer:
    """One scripted answer. `drip` is the pause in seconds before each byte; `hang` waits until the server closes.

    The answer waits until the server has had `crowd` requests at once, at most 20 s, and then `delay` seconds.
    `reset` closes the connection without an answer, `cut` in the middle of the body; `declined` is a refusal.
    """

    text: str | None = "fine"
    status: int = 200
    crowd: int = 0
    delay: float = 0.0
    drip: float = 0.0
    hang: bool = False
    reset: bool = False
    cut: bool = False
    declined: bool = False
    tokens: tuple[int, int] = (7, 3)
    raw: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    message: dict = field(default_factory=dict)  # more fields of the message, or other values

    def body(self, path: str = "") -> bytes:
        if self.raw is not None:
            return self.raw
        if self.status != 200:
            return json.dumps({"type": "error", "error": {"type": "error", "message": self.text}}).encode()
        if path.endswith("/messages"):
            return self.claude_message()
        message = {"role": "assistant", "content": self.text} | self.message
        usage = {"prompt_tokens": self.tokens[0], "completion_tokens": self.tokens[1], "total_tokens": 10}
        choice = {"index": 0, "message": message, "finish_reason": "content_filter" if self.declined else "stop"}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        return json.dumps(answer | {"usage": usage}).encode()

    def claude_message(self) -> bytes:
        answer = {"id": "1", "type": "message", "role": "assistant", "model": "m", "stop_sequence": None}
        answer["content"] = [{"type": "text", "text": self.text}] if self.text else []
        answer["stop_reason"] = "refusal" if self.declined else "end_turn"
        return json.dumps(
            answer | {"usage": {"input_tokens": self.tokens[0], "output_tokens": self.tokens[1]}}
        ).encode()


class FakeServer:
    """Answers each chat request with `script(body, number)`; `number` counts requests from 0.

    `gets` are the answers to other requests by path, or functions of the request's headers that return them. Records
    bodies, headers and paths of the requests, and in `most` the largest number at once.
    """

    def __init__(self, script: Callable[[dict, int], Answer] = lambda body, number: Answer(), gets=None):
        self.script = script
        self.gets = gets if gets is not None else {"/health": Answer(raw=b"{}")}
        self.bodies: list[dict] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.most = 0
        self._now = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def __enter__(self) -> "FakeServer":
        return self.open()

    def open(self, port: int = 0) -> "FakeServer":
        """Listen on this port, 0 for any free one."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                server.paths.append(self.path)
                answer = server.gets.get(self.path, Answer("not found", status=404))
                self.send(answer if isinstance(answer, Answer) else answer(dict(self.headers)))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    number = len(server.bodies)
                    server.bodies.append(body)
                    server.headers.append(dict(self.headers))
                    server._now += 1
                    server.most = max(server.most, server._now)
                try:
                    answer = server.answer_at(self.path) or server.script(body, number)
                    until(lambda: server.most >= answer.crowd, 20)
                    server._closing.wait(answer.delay)
                finally:
                    if not answer.hang:
                        with server._lock:
                            server._now -= 1
                self.send(answer)

            def send(self, answer: Answer) -> None:
                if answer.hang:
                    server._closing.wait()
                if answer.hang or answer.reset or server._closing.is_set():
                    self.close_connection = True
                    return
                content = answer.body(self.path)
                self.send_response(answer.status)
                for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if answer.cut:
                    content = content[: len(content) // 2]
                    self.close_connection = True
                try:
                    for start in range(0, len(content), 1 if answer.drip else max(len(content), 1)):
                        if answer.drip and server._closing.wait(answer.drip):
                            return
                        self.wfile.write(content[start:] if not answer.drip else content[start : start + 1])
                        self.wfile.flush()
                except OSError:
                    self.close_connection = True  # the client has disconnected

        class Server(ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True
            block_on_close = False

        self._server = Server(("127.0.0.1", port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    def answer_at(self, path: str) -> Answer | None:
        """Return the answer to a chat request at this path, None for the scripted one."""
        return None

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{self.root}/v1"


def prompt_of(body: dict) -> str:
    """Return the last message of a request."""
    return body["messages"][-1]["content"]


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Wait for the condition and return whether it became true within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
