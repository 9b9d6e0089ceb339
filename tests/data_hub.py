"""A fake dataset hub: files by revision, over the HTTP API with which `datasets` finds them."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.hub import AnyHub


class DataHub(AnyHub):
    """Serves one dataset: `revisions` maps each branch to its folder. `asked` records the requests."""

    def __init__(self, repository: str, revisions: dict[str, Path], token: str | None = None) -> None:
        self.repository, self.token = repository, token
        self.folders = {name: folder for name, folder in revisions.items()}
        self.commits = {name: hashlib.sha1(name.encode()).hexdigest() for name in revisions}
        self.asked: list[str] = []

    def reply(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict, bytes]:
        path = unquote(urlsplit(request.path).path)
        self.asked.append(f"{request.command} {path}")
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {"X-Error-Code": "GatedRepo"}, b""
        return self.answer(path, body)

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
            directory = folder / below
            if not directory.is_dir():
                return 404, {"X-Error-Code": "EntryNotFound"}, b"{}"
            return self._json([self._entry(folder, path) for path in sorted(directory.rglob("*"))])
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
        """Return the branch with which an address starts, by name or commit, and the rest of the address."""
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
            paths = json.loads(body)["paths"]
        except ValueError:
            paths = parse_qs(body.decode()).get("paths", [])
        return paths if isinstance(paths, list) else [paths]

    @staticmethod
    def _json(value) -> tuple[int, dict, bytes]:
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()
