"""A fake hub that takes uploads: repositories, files in a commit, and large files by the LFS protocol."""

import base64
import json
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote, urlsplit

from tests.hub import COMMIT, AnyHub

LARGE = (".safetensors", ".gguf")


class UploadHub(AnyHub):
    """Keeps what is uploaded with `token`: `files` by repository and name, `repositories` with what they were made as.

    `role` is what the token may do. `broken` is a part of the path of requests that fail.
    """

    def __init__(self, token: str, role: str = "write", broken: str | None = None) -> None:
        self.token, self.role, self.broken = token, role, broken
        self.repositories: dict[str, dict] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []

    def reply(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict, bytes]:
        path = unquote(urlsplit(request.path).path)
        self.asked.append(f"{request.command} {path}")
        if path.startswith("/lfs/"):  # an address that is signed, without a token
            self.large[path.removeprefix("/lfs/")] = body
            return 200, {}, b""
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {}, b'{"error": "Invalid username or password."}'
        if self.broken and self.broken in path:
            return 403, {}, json.dumps({"error": f"forbidden for {self.token}"}).encode()
        return 200, {"Content-Type": "application/json"}, json.dumps(self._answer(path, body)).encode()

    def _answer(self, path: str, body: bytes) -> dict:
        if path == "/api/whoami-v2":
            return {"name": "me", "type": "user", "orgs": [], "auth": {"accessToken": {"role": self.role}}}
        if path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}" if given.get("organization") else f"me/{given['name']}"
            self.repositories.setdefault(name, given)
            prefix = "datasets/" if given.get("type") == "dataset" else ""
            return {"url": f"{self.url}/{prefix}{name}"}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if "/preupload/" in path:
            modes = [(file["path"], "lfs" if file["path"].endswith(LARGE) else "regular") for file in _files(body)]
            return {"files": [{"path": name, "uploadMode": mode, "shouldIgnore": False} for name, mode in modes]}
        if path.endswith(".git/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            return {
                "objects": [{**row, "actions": {"upload": {"href": f"{self.url}/lfs/{row['oid']}"}}} for row in objects]
            }
        if "/commit/" in path:
            repository = path.removeprefix("/api/").partition("/")[2].partition("/commit/")[0]
            self._commit(repository, body)
            return {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.url}/{repository}/commit/{COMMIT}"}
        return {}

    def _commit(self, repository: str, body: bytes) -> None:
        kept = self.files.setdefault(repository, {})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                kept[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "lfsFile":
                kept[entry["value"]["path"]] = self.large[entry["value"]["oid"]]


def _files(body: bytes) -> list[dict]:
    return json.loads(body)["files"]
