"""One client for every model behind an API: an OpenAI-compatible server, or a scripted model.

A backend answers one request and knows its transport; `Client` sends many at once and knows none.
A new kind of model is a new backend: nothing else changes.
"""

import queue
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from ipaddress import ip_address
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

from sdpo.errors import ServerError, SettingError, one_line

# Strings that become control tokens inside a server: <|im_end|> and its kin, thoughts, tool calls, turns.
_CONTROL = re.compile(r"<(?=[|｜][^<>|｜]*[|｜]>|/?(?:think|tool_call|tool_response|start_of_turn|end_of_turn)>)")
_JOINER = "\u2060"

# The 4xx answers that another attempt can mend: timeout, conflict, too early, too many requests.
_PASSING = {408, 409, 425, 429}


class Refused(ServerError):
    """The server will refuse every request like this one: a setting has to be mended first."""


@dataclass(frozen=True)
class Request:
    """What a model is asked."""

    messages: list[dict]
    temperature: float
    max_tokens: int


@dataclass(frozen=True)
class Reply:
    """What a model answered. Token counts are None where the backend does not tell them."""

    text: str
    tokens_in: int | None
    tokens_out: int | None
    seconds: float
    retries: int = 0


@dataclass
class Total:
    """What a client has done so far; `seconds` is time spent waiting, `retries` those of replies that arrived."""

    requests: int = 0
    failures: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0


class Backend(Protocol):
    """A model that can be asked. `ask` blocks and may be called from many threads."""

    name: str

    def ask(self, request: Request, deadline_seconds: float) -> Reply:
        """Return the reply; raise Refused where no attempt can succeed, ServerError where a later one may."""


class Client:
    """Asks a backend many things at once. One caller at a time; `total` adds up over its life."""

    def __init__(self, backend: Backend, concurrency: int = 32, timeout: float = 120.0):
        if concurrency < 1:
            raise SettingError(f"CONCURRENCY must be at least 1, not {concurrency}.")
        self.backend = backend
        self.concurrency = concurrency
        self.timeout = timeout
        self.total = Total()

    @property
    def name(self) -> str:
        """The model and where it is, for messages to people."""
        return self.backend.name

    def complete(self, requests: Sequence[Request]) -> list[Reply | ServerError]:
        """Return a reply to each request in their order, or the ServerError that took its place.

        Each has `timeout` seconds, retries included. Raises Refused as soon as the backend does.
        """
        started = time.monotonic()
        outcomes: list[Reply | ServerError | None] = [None] * len(requests)
        waiting = deque(range(len(requests)))
        deadlines: dict[int, float] = {}  # of the requests in flight; in order, for all have the same time
        arrived: queue.SimpleQueue = queue.SimpleQueue()
        self.total.requests += len(requests)
        try:
            while waiting or deadlines:
                while waiting and len(deadlines) < self.concurrency:
                    place = waiting.popleft()
                    deadlines[place] = time.monotonic() + self.timeout
                    # Daemons, not a pool: a pool's threads are joined at exit, so one hung server would keep us.
                    threading.Thread(target=self._ask, args=(place, requests[place], arrived), daemon=True).start()
                first = next(iter(deadlines))
                try:
                    place, outcome = arrived.get(timeout=max(0.0, deadlines[first] - time.monotonic()))
                except queue.Empty:
                    place, outcome = first, late(self.name, self.timeout)
                if deadlines.pop(place, None) is None:
                    continue  # given up before
                if isinstance(outcome, Refused) or not isinstance(outcome, Reply | ServerError):
                    raise outcome
                outcomes[place] = outcome
                self._count(outcome)
        finally:
            self.total.seconds += time.monotonic() - started
        return outcomes

    def _ask(self, place: int, request: Request, arrived: queue.SimpleQueue) -> None:
        try:
            arrived.put((place, self.backend.ask(request, self.timeout)))
        except BaseException as error:  # raised again in the caller's thread
            arrived.put((place, error))

    def _count(self, outcome: Reply | ServerError) -> None:
        if isinstance(outcome, ServerError):
            self.total.failures += 1
            return
        self.total.retries += outcome.retries
        self.total.tokens_in += outcome.tokens_in or 0
        self.total.tokens_out += outcome.tokens_out or 0


class ScriptedBackend:
    """A model that is a function, for tests and for the tiny world."""

    def __init__(self, function: Callable[[Request], str], name: str = "scripted"):
        self.function = function
        self.name = name

    def ask(self, request: Request, deadline_seconds: float) -> Reply:
        """Return what the function returns; whatever it raises is raised."""
        started = time.monotonic()
        text = self.function(request)
        return Reply(text, None, None, time.monotonic() - started)


class OpenAIBackend:
    """A model behind an OpenAI-compatible server. The SDK's own retries are the only ones.

    The `*_setting` names are what an error tells the reader to mend.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str | None = None,
        retries: int = 4,
        *,
        url_setting: str = "SIMULATOR_URL",
        model_setting: str = "USER_MODEL_NAME_OR_PATH",
        key_setting: str = "OPENAI_API_KEY",
    ):
        url = checked_url(url, url_setting)
        import openai  # a second and more, which --help and --dry-run need not pay

        self.model = model
        self.url = shown_url(url)
        self.name = f"{model} at {self.url}"
        self._settings = (url_setting, model_setting, key_setting)
        self._thread = threading.local()
        self._client = openai.OpenAI(
            base_url=url,
            # Never None: the SDK would send the key it finds in the environment to a server it is not for.
            api_key=api_key or "none",
            max_retries=retries,
            http_client=openai.DefaultHttpxClient(
                trust_env=not is_loopback(url), event_hooks={"request": [self._keep_deadline]}
            ),
        )

    def ask(self, request: Request, deadline_seconds: float) -> Reply:
        """Return the reply; raise Refused where no attempt can succeed, ServerError where a later one may."""
        import openai

        started = time.monotonic()
        self._thread.deadline = started + deadline_seconds
        messages = [{**message, "content": defuse(message["content"])} for message in request.messages]
        try:
            answer = self._client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=messages,
                temperature=request.temperature,
                max_tokens=request.max_tokens,
                timeout=deadline_seconds,
            )
        # `from None` throughout: the SDK's errors carry the server's words, which may repeat the prompt.
        except openai.APITimeoutError:
            raise late(self.name, deadline_seconds) from None
        except openai.APIStatusError as error:
            raise self._status_error(error, request) from None
        except openai.APIConnectionError as error:
            raise ServerError(f"{self.name}: {_broken(error.__cause__)}") from None
        return self._reply(answer, started)

    def _reply(self, answer, started: float) -> Reply:
        try:
            completion = answer.parse()
            text = completion.choices[0].message.content or ""
            usage = completion.usage
            counts = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
        except Exception:  # whatever the SDK makes of a body that is none of its own
            text = None
        if not isinstance(text, str):
            raise ServerError(
                f"{self.name}: what came back is not a chat completion. "
                f"Is {self._settings[0]} the address that ends in /v1?"
            ) from None
        return Reply(text, *counts, time.monotonic() - started, answer.retries_taken)

    def _keep_deadline(self, attempt) -> None:
        """Give an attempt no more time than is left: the SDK would give each the whole of it."""
        import openai

        left = self._thread.deadline - time.monotonic()
        if left <= 0:
            raise openai.APITimeoutError(request=attempt)
        attempt.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), left)

    def _status_error(self, error, request: Request) -> ServerError:
        status = error.status_code
        if status in _PASSING or not 400 <= status < 500:
            return ServerError(f"{self.name}: HTTP {status} from the server, also after retries. Its log says why.")
        url_setting, model_setting, key_setting = self._settings
        if status in (401, 403):
            return Refused(
                f"{self.name} refuses the key (HTTP {status}): check {key_setting} in the environment or .env."
            )
        detail = _quotable(error.body, request, self._client.api_key)
        if status == 404:
            advice = f"check {model_setting} ({self.model}) and {url_setting}."
        else:
            advice = f"check {model_setting} ({self.model}): it must match the server's model to the letter."
        return Refused(f"{self.name} refuses the request (HTTP {status}{detail}): {advice}")


def defuse(text: str) -> str:
    """Return the text with an invisible joiner inside every chat-control string, so that it stays text.

    Only `<|name|>` forms and the tags of thoughts, tool calls and turns are touched.
    """
    return _CONTROL.sub("<" + _JOINER, text)


def late(name: str, seconds: float) -> ServerError:
    """Return the error for a reply that did not arrive in time."""
    return ServerError(f"{name}: no reply within {seconds:g} s.")


def checked_url(url: str, setting: str = "SIMULATOR_URL") -> str:
    """Return the URL without trailing slashes. Raises SettingError where it is none of HTTP."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or re.search(r"\s", url):
        raise SettingError(f"{setting} is not an address of the form http://host:8000/v1.")
    return url.rstrip("/")


def shown_url(url: str) -> str:
    """Return the URL without the parts that may hold a password or a key."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_loopback(url: str) -> bool:
    """Return whether the URL is on this machine: no proxy must come between."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _broken(cause: BaseException | None) -> str:
    if cause is None or "Connect" in type(cause).__name__:
        return f"no connection ({one_line(cause, 120)})." if cause else "no connection."
    return f"the connection broke ({type(cause).__name__})."


def _quotable(body: object, request: Request, key: str) -> str:
    """Return the server's own words as `: words`, or nothing where they repeat the prompt or the key."""
    found = body.get("detail") or body.get("message") if isinstance(body, dict) else None
    if not isinstance(found, str):
        return ""
    words = " ".join(found.split())[:200]
    for text in (key, *(message["content"] for message in request.messages)):
        match = SequenceMatcher(None, words, text, autojunk=False).find_longest_match()
        if text and match.size >= min(10, len(text)):
            return ""
    return f": {words}"
