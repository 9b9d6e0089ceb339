"""A stand-in of a model hub: one repository's files, by the addresses that huggingface_hub asks for."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves `folder` as `repository` to those who show `token`; keeps the tokens that it was shown."""

    def __init__(self, repository: str, folder: Path, token: str) -> None:
        self.repository, self.folder, self.token = repository, folder, token
        self.shown: list[str | None] = []

    def __enter__(self) -> "Hub":
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                self.answer(with_body=False)

            def do_GET(self):
                self.answer(with_body=True)

            def answer(self, with_body: bool) -> None:
                shown = self.headers.get("Authorization")
                hub.shown.append(shown)
                prefix = f"/{hub.repository}/resolve/main/"
                file = hub.folder / self.path.removeprefix(prefix) if self.path.startswith(prefix) else None
                if shown != f"Bearer {hub.token}":
                    return self.send(401, b"", {"X-Error-Code": "GatedRepo"}, with_body)
                if file is None or not file.is_file():
                    return self.send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body)
                content = file.read_bytes()
                tag = hashlib.sha256(content).hexdigest()
                return self.send(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}, with_body)

            def send(self, status: int, content: bytes, headers: dict, with_body: bool) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if with_body:
                    self.wfile.write(content)

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
