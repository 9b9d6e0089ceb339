"""A stand-in of a hub of data sets: files by revision, through the HTTP API that `datasets` uses to find them."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class DataHub:
    """Serves one data set: `revisions` names the folder of each branch. `asked` keeps the addresses asked for."""

    def __init__(self, repository: str, revisions: dict[str, Path], token: str | None = None) -> None:
        self.repository, self.token = repository, token
        self.folders = {name: folder for name, folder in revisions.items()}
        self.commits = {name: hashlib.sha1(name.encode()).hexdigest() for name in revisions}
        self.asked: list[str] = []

    def __enter__(self) -> "DataHub":
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                self.reply(False)

            def do_GET(self):
                self.reply(True)

            def do_POST(self):
                self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.reply(True)

            def reply(self, with_body: bool) -> None:
                path = unquote(urlsplit(self.path).path)
                hub.asked.append(f"{self.command} {path}")
                if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                    status, headers, content = 401, {"X-Error-Code": "GatedRepo"}, b""
                else:
                    status, headers, content = hub.answer(path, getattr(self, "body", b""))
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

    def answer(self, path: str, body: bytes) -> tuple[int, dict, bytes]:
        api, files = f"/api/datasets/{self.repository}", f"/datasets/{self.repository}/resolve/"
        if path.startswith(files):
            return self._file(path.removeprefix(files))
        if path == api:
            return self._json(self._info("main"))
        if not path.startswith(f"{api}/"):
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        kind, _, rest = path.removeprefix(f"{api}/").partition("/")
        revision, below = self._revision(rest)
        if revision is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if kind == "revision":
            return self._json(self._info(revision))
        folder = self.folders[revision]
        if kind == "tree":
            place = folder / below
            if not place.is_dir():
                return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
            return self._json([self._entry(folder, found) for found in sorted(place.rglob("*"))])
        if kind == "paths-info":
            wanted = self._paths(body)
            return self._json([self._entry(folder, folder / name) for name in wanted if (folder / name).exists()])
        return 404, {}, b"{}"

    def _file(self, rest: str) -> tuple[int, dict, bytes]:
        revision, name = self._revision(rest)
        if revision is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        file = self.folders[revision] / name
        headers = {"X-Repo-Commit": self.commits[revision]}
        if not file.is_file():
            return 404, {**headers, "X-Error-Code": "EntryNotFound"}, b""
        content = file.read_bytes()
        return 200, {**headers, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}, content

    def _revision(self, rest: str) -> tuple[str | None, str]:
        """Return the branch that an address begins with, by its name or its commit, and what follows it."""
        for branch, commit in self.commits.items():
            for name in (branch, commit):
                if rest == name or rest.startswith(f"{name}/"):
                    return branch, rest[len(name) + 1 :]
        return None, ""

    def _info(self, revision: str) -> dict:
        folder = self.folders[revision]
        names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
        return {
            "id": self.repository, "sha": self.commits[revision], "private": False, "gated": False, "disabled": False,
            "tags": [], "downloads": 0, "likes": 0, "siblings": [{"rfilename": name} for name in names],
        }  # fmt: skip

    def _entry(self, folder: Path, path: Path) -> dict:
        name = str(path.relative_to(folder))
        mark = hashlib.sha1(name.encode()).hexdigest()
        size = path.stat().st_size if path.is_file() else 0
        return {"type": "file" if path.is_file() else "directory", "oid": mark, "size": size, "path": name}

    @staticmethod
    def _paths(body: bytes) -> list[str]:
        from urllib.parse import parse_qs

        try:
            found = json.loads(body)["paths"]
        except ValueError:
            found = parse_qs(body.decode()).get("paths", [])
        return found if isinstance(found, list) else [found]

    @staticmethod
    def _json(value) -> tuple[int, dict, bytes]:
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()
