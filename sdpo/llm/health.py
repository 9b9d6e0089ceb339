"""Whether a server behind an address is ready and has the models, by its health page and its list of models."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

from sdpo.errors import ServerError, command, nearest, nearest_first, on_one_line
from sdpo.llm.address import checked_url, credentials, has_version, is_loopback, shown_url
from sdpo.llm.backend import RequestRefused, checked_key

START_HINT = "Start one with `{start}`, or leave SIMULATOR_URL unset and the job starts its own."
OTHER_HINT = "Start it, correct {setting}, or leave that unset and the job loads the model itself."
_PORT = 8000  # the simulator's own
LOADING_PAUSE_SECONDS = 2.0
LISTING_SECONDS = 5.0  # for the list of models of a server that is ready
MOST_BYTES = 10_000_000  # of an answer
_NO_PAGE = (401, 403, 404, 405)  # what a server answers that has no such page, or shows it to others only


class _Loading(ServerError):
    """The server responds, but is not ready yet (HTTP 503)."""


def check_health(
    url: str,
    *models: str,
    timeout: float = 10,
    setting: str = "SIMULATOR_URL",
    model_setting: str = "USER_MODEL_NAME_OR_PATH",
    advice: str = "",
    api_key: str | None = None,
    wait: float = 0,
    wait_setting: str = "SIMULATOR_WAIT",
    ask: float = 0,
) -> None:
    """Return if a server responds at the URL, which ends in /v1 and is the value of `setting`, and has these models.

    `model_setting` is the setting that names the models; if there is none, `advice` says what to do about one that is
    missing. A server that is still loading its model is waited for up to `wait` seconds, the value of `wait_setting`.
    With `ask` a server whose list does not decide is asked for a token of each model, for so many seconds.
    Raises ServerError if none responds, RequestRefused if it lacks a model or refuses the key, and SettingError for an
    invalid URL.
    """
    advice = advice or f"Set {model_setting} to a model of the server, or {setting} to another server."
    server = _Server(checked_url(url, setting), setting, model_setting, advice, api_key, ask)
    started, said = time.monotonic(), False
    while True:
        try:
            return server.check(models, timeout)
        except _Loading as loading:
            left = started + wait - time.monotonic()
            if left <= 0:
                raise ServerError(str(loading)) from None
            if not said:
                print(
                    f"The server at {shown_url(url)} is loading its model: waiting up to {wait:g} s ({wait_setting}).",
                    flush=True,
                )
                said = True
            time.sleep(min(left, LOADING_PAUSE_SECONDS))


@contextmanager
def noted_if_dry(dry_run: bool) -> Iterator[None]:
    """In a dry run print a server that does not respond as a note alone: it may still be to be started."""
    try:
        yield
    except ServerError as error:
        if not dry_run or type(error) is not ServerError:
            raise
        print(f"note: {error}", flush=True)


@dataclass(frozen=True)
class _Server:
    """A server to check: its URL, the settings that name it and its models, its key, and for how long to ask it."""

    url: str
    setting: str
    model_setting: str
    advice: str
    api_key: str | None
    ask: float

    def check(self, models: Sequence[str], timeout: float) -> None:
        """Return if the server is ready and has the models. Raises as `check_health`, and _Loading."""
        tried = self._at(urlsplit(self.url).path.removesuffix("/v1") + "/health")
        try:
            status, _ = get(tried, timeout)
            if status == 200 and models:
                with suppress(OSError, http.client.HTTPException):  # it is ready; the first request decides
                    self._check_listed(*self._listing(LISTING_SECONDS), models, strict=False)
            elif status in _NO_PAGE:
                tried, status, body = self._listing(timeout)
                if status == 403:
                    return  # the server responds; the first request will show whether the key is valid
                self._check_listed(tried, status, body, models, strict=True)
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"No server responds at {shown_url(tried)} ({cause_of(error)}). {self._hint}") from None
        if status != 200:
            kind = _Loading if status == 503 else ServerError
            raise kind(f"The server at {shown_url(tried)} is not healthy (HTTP {status}). {self._hint}")

    @property
    def _hint(self) -> str:
        if self.setting != "SIMULATOR_URL":
            return OTHER_HINT.format(setting=self.setting)
        port = urlsplit(self.url).port
        return START_HINT.format(start=command("simulator" + (f" PORT={port}" if port not in (None, _PORT) else "")))

    @property
    def _key_setting(self) -> str:
        return self.setting.replace("_URL", "_API_KEY")

    @property
    def _headers(self) -> dict[str, str]:
        key = self.api_key and checked_key(self.api_key, self._key_setting)
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _at(self, path: str) -> str:
        return urlunsplit(urlsplit(self.url)._replace(path=path))

    def _listing(self, timeout: float) -> tuple[str, int, bytes]:
        """Return the URL of the list of models, the status of the answer and its body."""
        for path in ["/models"] if has_version(self.url) else ["/v1/models", "/models"]:
            tried = self._at(urlsplit(self.url).path + path)
            status, body = get(tried, timeout, headers=self._headers)
            if status not in _NO_PAGE:
                break
        return tried, status, body

    def _check_listed(self, url: str, status: int, body: bytes, models: Sequence[str], strict: bool) -> None:
        """Raise RequestRefused if the key is refused, or a list of models lacks one of these.

        With `strict` the list is what shows that the server is ready: an answer that is no list is an error too.
        """
        if status == 401:
            key = self._key_setting
            advice = f"refuses the key (HTTP 401): check {key} in" if self.api_key else f"needs a key: set {key} in"
            raise RequestRefused(f"The server at {shown_url(url)} {advice} the environment or .env.", key)
        if status != 200:
            return
        listed = _listed(body)
        if listed is None and strict:
            raise ServerError(f"The server at {shown_url(url)} is not OpenAI-compatible. {self._hint}")
        missing = [model for model in models if not any(_is(model, name) for name in listed or {})]
        if listed is None or not missing:
            return
        if not (_decides(listed) or (strict and not listed)):
            return self._ask(missing)
        raise RequestRefused(
            f"The server at {shown_url(url)} has no model {', '.join(missing[:3])}. {instead_of(missing[0], listed)} "
            f"{self.advice}",
            self.model_setting,
            self.setting,
        )

    def _ask(self, models: Sequence[str]) -> None:
        """Raise RequestRefused if the server fails for one of these models; one that does not answer may be loading."""
        for model in models if self.ask else ():
            message = {"role": "user", "content": "Hello."}
            body = json.dumps({"model": model, "messages": [message], "max_tokens": 1}).encode()
            versioned = "" if has_version(self.url) else "/v1"
            url = self._at(f"{urlsplit(self.url).path}{versioned}/chat/completions")
            with suppress(OSError, http.client.HTTPException):
                if (status := get(url, self.ask, body, self._headers)[0]) in (404, 500):
                    raise RequestRefused(
                        f"The server at {shown_url(url)} fails for {model} (HTTP {status}): it may not have this "
                        f"model; its log says why. {self.advice}",
                        self.model_setting,
                        self.setting,
                    )


def _listed(body: bytes) -> dict[str, object] | None:
    """Return the models of a list and who owns each; None if this is no such list."""
    try:
        return {str(entry["id"]): entry.get("owned_by") for entry in json.loads(body)["data"]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _decides(listed: Mapping[str, object]) -> bool:
    """Return whether a server answers for the listed models alone.

    `transformers serve` lists what the hub's cache holds, whose owners are those of the hub; llama.cpp takes any name.
    """
    hub = all(owner == (name.split("/")[0] if "/" in name else "") for name, owner in listed.items())
    return bool(listed) and not hub and "llamacpp" not in listed.values()


def instead_of(model: str, listed: Collection[str]) -> str:
    """Return a sentence on the models that a server has, those first that are most like a model that it has not."""
    if not listed:
        return "It lists none."
    names = on_one_line(", ".join(nearest_first(model, listed)), 300)
    more = f" and {len(listed) - 5} more" if len(listed) > 5 else ""
    return on_one_line(f"It has {names}{more}.{nearest(model, listed)}", 500)


def _is(model: str, listed: str) -> bool:
    """Return whether a server that lists this name answers for the model: Ollama and Gemini list longer names."""
    return listed in (model, f"{model}:latest", f"models/{model}")


def get(
    url: str, timeout: float, data: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    """Return status and body; the body is empty for an error status. Raises OSError or HTTPException.

    `timeout` is for all of it. The user and the password of a URL take the place of an Authorization header.
    """
    deadline = time.monotonic() + timeout
    proxies = urllib.request.ProxyHandler({} if is_loopback(url) else None)
    # urllib would take a user and a password for a part of the host.
    address, authorization = credentials(url)
    sent = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(address, data, sent | ({"Authorization": authorization} if authorization else {}))
    try:
        with urllib.request.build_opener(proxies, _Redirects).open(request, timeout=timeout) as answer:
            body = b""
            while len(body) < MOST_BYTES and (part := answer.read1()):
                body += part
                if time.monotonic() > deadline:
                    raise TimeoutError("timed out")
            return answer.status, body
    except urllib.error.HTTPError as error:
        return error.code, b""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, to another server without the key."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        """Return the request that follows, None if it is not to be followed."""
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        if following is not None and urlsplit(req.full_url)[:2] != urlsplit(newurl)[:2]:
            for name in ("Authorization", "X-api-key"):
                following.remove_header(name)
        return following


def cause_of(error: BaseException) -> str:
    """Return why a server could not be reached, in the words of the operating system where there are any."""
    reason = getattr(error, "reason", error)
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
