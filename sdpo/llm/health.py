"""Whether a server behind an address responds and is ready, by its health page or its list of models."""

import http.client
import json
import time
import urllib.error
import urllib.request
from urllib.parse import urlsplit, urlunsplit

from sdpo.errors import ServerError, command, on_one_line
from sdpo.llm.address import checked_url, credentials, has_version, is_loopback, shown_url

START_HINT = f"Start one with `{command('simulator')}`, or leave SIMULATOR_URL unset and the job starts its own."
OTHER_HINT = "Start it, correct {setting}, or leave that unset and the job loads the model itself."
LOADING_PAUSE_SECONDS = 2.0


class _Loading(ServerError):
    """The server responds, but is not ready yet (HTTP 503)."""


def check_health(
    url: str,
    model: str | None = None,
    timeout: float = 10,
    *,
    setting: str = "SIMULATOR_URL",
    wait: float = 0,
    wait_setting: str = "SIMULATOR_WAIT",
) -> None:
    """Return if a server responds at the URL, which ends in /v1 and is the value of `setting`.

    A server that is still loading its model is waited for up to `wait` seconds, the value of `wait_setting`. Raises
    ServerError if none responds, or if it lists its models and `model` is not among them, and SettingError for an
    invalid URL.
    """
    started, said = time.monotonic(), False
    while True:
        try:
            return _check_once(checked_url(url, setting), model, timeout, setting)
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


def _check_once(url: str, model: str | None, timeout: float, setting: str) -> None:
    hint = START_HINT if setting == "SIMULATOR_URL" else OTHER_HINT.format(setting=setting)
    parts = urlsplit(url)
    # Not /v1/models first: transformers serve reads the complete model cache for it.
    tried = urlunsplit(parts._replace(path=parts.path.removesuffix("/v1") + "/health"))
    listing = ["/models"] if has_version(url) else ["/v1/models", "/models"]
    try:
        status, _ = get(tried, timeout)
        for path in listing:
            if status not in (401, 403, 404, 405):
                break
            tried = urlunsplit(parts._replace(path=parts.path + path))
            status, body = get(tried, timeout)
            if status in (401, 403):
                return  # the server responds; the first request will show whether the key is valid
            if status == 200 and model is not None:
                _check_listed(body, model, tried)
    except (OSError, http.client.HTTPException) as error:
        raise ServerError(f"No server responds at {shown_url(tried)} ({cause_of(error)}). {hint}") from None
    if status != 200:
        kind = _Loading if status == 503 else ServerError
        raise kind(f"The server at {shown_url(tried)} is not healthy (HTTP {status}). {hint}")


def get(url: str, timeout: float, data: bytes | None = None) -> tuple[int, bytes]:
    """Return status and body; the body is empty for an error status. Raises OSError or HTTPException."""
    proxies = urllib.request.ProxyHandler({} if is_loopback(url) else None)
    # urllib would take a user and a password for a part of the host.
    address, authorization = credentials(url)
    headers = {"Content-Type": "application/json"} | ({"Authorization": authorization} if authorization else {})
    request = urllib.request.Request(address, data, headers)
    try:
        with urllib.request.build_opener(proxies).open(request, timeout=timeout) as answer:
            return answer.status, answer.read(1_000_000)
    except urllib.error.HTTPError as error:
        return error.code, b""


def _check_listed(body: bytes, model: str, url: str) -> None:
    try:
        listed = [entry["id"] for entry in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ServerError(f"The server at {shown_url(url)} is not OpenAI-compatible. {START_HINT}") from None
    if model not in listed:
        names = on_one_line(", ".join(map(str, listed[:5])), 300)
        hint = f"set USER_MODEL_NAME_OR_PATH to one of {names}." if names else "it lists none. See its log."
        raise ServerError(f"The server at {shown_url(url)} has no model {model}: {hint}")


def cause_of(error: BaseException) -> str:
    """Return why a server could not be reached, in the words of the operating system where there are any."""
    reason = getattr(error, "reason", error)
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
