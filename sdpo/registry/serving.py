"""Loading a version into the server that answers, and trying it before the live pointer moves.

vLLM loads and unloads adapters by request while it serves (started with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and
--enable-lora). `transformers serve` without a model of its own loads the folder that a request names as its model.
"""

import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import httpx

from sdpo.errors import ServerError, SettingError, on_one_line, one_line
from sdpo.llm.address import checked_url, is_loopback, shown_url
from sdpo.registry.versions import Version

if TYPE_CHECKING:
    from sdpo.settings import RegistrySettings

VLLM, FOLDERS = "vllm", "folders"
SERVED = "served"  # in a version's folder: an adapter with links to its base, as one whole model
_OWN = re.compile(r"sdpo-v[0-9]{4,}-[0-9a-f]{8}")  # the names that are given here


class Upstream(Protocol):
    """What a version is loaded into."""

    def load(self, version: Version) -> str:
        """Load a version, get an answer from it, and return the server's name for it. Raises ServerError."""
        ...

    def try_base(self, model: str | None) -> str | None:
        """Get an answer from the base model, and return the server's name for it. Raises ServerError."""
        ...

    def others(self, kept: Collection[str | None]) -> list[str]:
        """Return the names of the versions that the server holds and that are none of these."""
        ...

    def unload(self, names: Collection[str]) -> None:
        """Unload versions by their names."""
        ...


def upstream_of(settings: "RegistrySettings") -> Upstream:
    """Return the server of the settings. Raises ServerError if it does not respond, SettingError for its address."""
    if settings.upstream is None:
        return NoServer(settings.registry)
    kind: str = settings.upstream_kind
    server = Server(settings.upstream, settings.upstream_api_key, settings.upstream_timeout)
    if kind == "auto":
        kind = VLLM if server.has_version_page() else FOLDERS
    return VllmServer(server, settings.registry) if kind == VLLM else FolderServer(server, settings.registry)


class Server:
    """Requests to an OpenAI-compatible server."""

    def __init__(self, url: str, key: str | None, timeout: float) -> None:
        self.url = checked_url(url, "UPSTREAM").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # A proxy of the environment is for other machines.
        self._client = httpx.Client(headers=headers, timeout=timeout, trust_env=not is_loopback(url))

    def has_version_page(self) -> bool:
        """Return whether the server says which version of vLLM it is."""
        response = self._send("GET", "/version")
        try:
            return response.status_code == 200 and "version" in response.json()
        except ValueError:
            return False

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """Return the response to a request, whatever its status. Raises ServerError if there is none."""
        return self._send("POST", path, body)

    def models(self) -> list[dict[str, Any]]:
        """Return the server's list of models. Raises ServerError if it gives none."""
        response = self._send("GET", "/v1/models")
        try:
            return list(response.json()["data"])
        except (ValueError, KeyError, TypeError):
            raise ServerError(f"UPSTREAM: {shown_url(self.url)} lists no models: {_shown(response)}.") from None

    def try_model(self, model: str) -> None:
        """Get a short answer from a model. Raises ServerError if there is none."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "temperature": 0}
        response = self.post("/v1/chat/completions", body)
        try:
            answered = response.status_code == 200 and bool(response.json()["choices"])
        except (ValueError, KeyError, TypeError):
            answered = False
        if not answered:
            raise ServerError(
                f"UPSTREAM: {shown_url(self.url)} does not answer as {model}: {_shown(response)}. The live pointer was "
                "not moved. See the server's log."
            )

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            return self._client.request(method, self.url + path, json=body)
        except httpx.HTTPError as error:
            raise ServerError(
                f"UPSTREAM: no server responds at {shown_url(self.url)} ({one_line(error)}). Start it, or correct "
                "UPSTREAM; the live pointer was not moved."
            ) from None


class VllmServer:
    """vLLM, which loads adapters by request under a name that is tied to their weights."""

    def __init__(self, server: Server, registry: Path) -> None:
        self.server, self.registry = server, registry

    def load(self, version: Version) -> str:
        """Load the adapter unless it is loaded, check that it is listed, and try it."""
        if version.kind != "adapter":
            raise SettingError(
                f"{version.name} is a whole model, and vLLM loads only adapters while it runs. Start vLLM with "
                f"{version.folder(self.registry).resolve()}, or promote a version that is an adapter."
            )
        name = f"sdpo-{version.name}-{version.files[:8]}"
        if name not in self._listed():
            path = str(version.folder(self.registry).resolve())
            response = self.server.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})
            if response.status_code == 404:
                raise ServerError(
                    "UPSTREAM: this vLLM loads no adapters while it runs. Start it with --enable-lora and "
                    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True; the live pointer was not moved."
                )
            if name not in self._listed():
                raise ServerError(
                    f"UPSTREAM: vLLM did not load {version.name}: {_shown(response)}. The live pointer was not moved. "
                    "Its --max-lora-rank must be at least the adapter's rank, and it must see the folder."
                )
        self.server.try_model(name)
        return name

    def try_base(self, model: str | None) -> str | None:
        """Try the model that vLLM was started with; `model` is of no use, as it may have another name there."""
        bases = [entry["id"] for entry in self.server.models() if not entry.get("parent")]
        if not bases:
            raise ServerError(f"UPSTREAM: {shown_url(self.server.url)} lists no base model.")
        self.server.try_model(bases[0])
        return bases[0]

    def others(self, kept: Collection[str | None]) -> list[str]:
        """Return the adapters that have a name of ours and are none of these."""
        return [name for name in self._listed() if _OWN.fullmatch(name) and name not in kept]

    def unload(self, names: Collection[str]) -> None:
        """Unload adapters."""
        for name in names:
            self.server.post("/v1/unload_lora_adapter", {"lora_name": name})

    def _listed(self) -> list[str]:
        return [str(entry["id"]) for entry in self.server.models()]


class FolderServer:
    """`transformers serve`, which loads the folder that a request names and unloads it when nobody asks for it."""

    def __init__(self, server: Server, registry: Path) -> None:
        self.server, self.registry = server, registry

    def load(self, version: Version) -> str:
        """Try the version's folder as a model."""
        name = served_folder(self.registry, version)
        self.server.try_model(name)
        return name

    def try_base(self, model: str | None) -> str | None:
        """Try the base model."""
        if model is not None:
            self.server.try_model(model)
        return model

    def others(self, kept: Collection[str | None]) -> list[str]:
        """Return nothing: the server itself unloads a model that is idle."""
        return []

    def unload(self, names: Collection[str]) -> None:
        """Do nothing."""


class NoServer:
    """No server: a version is named by its folder."""

    def __init__(self, registry: Path) -> None:
        self.registry = registry

    def load(self, version: Version) -> str:
        """Return the version's folder."""
        return served_folder(self.registry, version)

    def try_base(self, model: str | None) -> str | None:
        """Return the base model."""
        return model

    def others(self, kept: Collection[str | None]) -> list[str]:
        """Return nothing."""
        return []

    def unload(self, names: Collection[str]) -> None:
        """Do nothing."""


def served_folder(registry: Path, version: Version) -> str:
    """Return a folder that `transformers` loads as a whole model.

    For an adapter it has links to the files of its base and to its own: transformers takes such a folder for a model
    with an adapter on it. Raises SettingError if the base is not on this machine.
    """
    weights = version.folder(registry).resolve()
    if version.kind != "adapter":
        return str(weights)
    base, folder = _base_folder(version), weights.with_name(SERVED)
    # The adapter's tokenizer and chat template are those it was trained with: its files come last.
    files = {path.name: path for source in (base, weights) for path in source.iterdir() if path.is_file()}
    if not folder.exists():
        temporary = folder.with_name(f".{SERVED}-{os.getpid()}")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for name, path in files.items():
            (temporary / name).symlink_to(path)
        temporary.rename(folder)
    _relink(folder, files)
    return str(folder)


def _relink(folder: Path, files: Mapping[str, Path]) -> None:
    """Let a folder have these links and no others. Each is replaced as a whole: the folder may be what is live."""
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    for name, target in files.items():
        if not (folder / name).is_symlink() or (folder / name).readlink() != target:
            temporary = folder / f".{name}-{os.getpid()}"
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(target)
            temporary.replace(folder / name)


def _base_folder(version: Version) -> Path:
    if Path(version.base).is_dir():
        return Path(version.base).resolve()
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(version.base, local_files_only=True)).resolve()
    except Exception as error:  # the hub's client raises the errors of several libraries
        raise SettingError(
            f"{version.name}: its base {version.base} is not on this machine: {one_line(error)}."
        ) from None


def _shown(response: httpx.Response) -> str:
    return f"HTTP {response.status_code} {on_one_line(response.text, 200)}"
