"""A fake model hub: the files of one repository, at the addresses that huggingface_hub requests."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class AnyHub:
    """The common part of the fake hubs; `reply` returns status, headers and content for a request."""

    def __enter__(self) -> Self:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                body = self._body()
                status, headers, content = hub.reply(self, body)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def _body(self):
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            do_HEAD = do_POST = do_PUT = do_GET

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"


class Hub(AnyHub):
    """Serves `folder` as `repository` to requests with `token`; `shown` records the authorization headers."""

    def __init__(self, repository: str, folder: Path, token: str) -> None:
        self.repository, self.folder, self.token = repository, folder, token
        self.shown: list[str | None] = []

    def reply(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict, bytes]:
        shown = request.headers.get("Authorization")
        self.shown.append(shown)
        prefix = f"/{self.repository}/resolve/main/"
        file = self.folder / request.path.removeprefix(prefix) if request.path.startswith(prefix) else None
        if shown != f"Bearer {self.token}":
            return 401, {"X-Error-Code": "GatedRepo"}, b""
        if file is None or not file.is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        content = file.read_bytes()
        return 200, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}, content
