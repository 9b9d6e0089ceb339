"""The common part of the HTTP backends: the deadline, errors that name a setting, and what must not be logged.

Only the SDKs retry. Both SDKs come from one generator, so they fail in the same manner.
"""

import logging
import re
import threading
import time
from dataclasses import replace
from difflib import SequenceMatcher
from types import ModuleType
from typing import Any

from sdpo.errors import ServerError, SettingError, one_line
from sdpo.llm.address import shown_url
from sdpo.llm.backend import Reply, Request, RequestRefused, deadline_error

# Strings that a server turns into control tokens: <|im_end|> and the like, tags of thoughts, tool calls and turns.
_CONTROL = re.compile(r"<(?=[|｜][^<>|｜]*[|｜]>|/?(?:think|tool_call|tool_response|start_of_turn|end_of_turn)>)")
_JOINER = "\u2060"

# The 4xx statuses after which a retry may succeed: timeout, conflict, too early, too many requests.
_RETRYABLE = {408, 409, 425, 429}
# The statuses that may mean that the server does not support an optional part of the request.
_UNKNOWN_PART = {400, 422}

# At lower levels these loggers write complete requests, headers and URLs with passwords.
_VERBOSE_LOGGERS = ("openai", "anthropic", "httpx", "httpx2", "httpcore", "httpcore2")


class _DeadlinePassedError(BaseException):
    """A BaseException, because the SDKs retry after any Exception."""


class HttpBackend:
    """A model behind HTTP. A subclass implements the SDK call (`_create`) and reads its response (`_read`)."""

    kind = ""
    settings = ("", "", "")  # the names of the settings for URL, model and key, for messages
    expected = "a chat completion, from an address that ends in /v1"

    def __init__(self, sdk: ModuleType, url: str, model: str, key: str) -> None:
        if not (key.isascii() and key.isprintable()):
            raise SettingError(f"{self.settings[2]} contains characters that no key has. Copy it again.")
        self.address = url
        self.url = shown_url(url)
        self.model = model
        self.name = f"{model} at {self.url}"
        self._sdk, self._key = sdk, key
        self._thread = threading.local()
        self._left_out: set[str] = set()
        for name in _VERBOSE_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)

    def ask(self, request: Request, deadline_seconds: float) -> Reply:
        """Return the reply.

        Raises RequestRefused if no attempt can succeed, ServerError if a later one may.
        """
        started = time.monotonic()
        self._thread.deadline = started + deadline_seconds
        messages = [{**message, "content": _escaped(message["content"])} for message in request.messages]
        request = replace(request, messages=messages)
        while True:
            left_out = frozenset(self._left_out)
            try:
                answer = self._attempt(request, left_out, deadline_seconds)
                break
            except RequestRefused as refusal:
                part = self._unknown_part(refusal, request) if refusal.status in _UNKNOWN_PART else None
                if part is None or part in left_out:
                    raise
                # Without that part the server either answers or reports what else is wrong.
                self._left_out.add(part)
        try:
            text, tokens_in, tokens_out = self._read(answer.parse())
        except Exception:  # the SDK raises many types for a body that it does not expect
            text = None
        if not isinstance(text, str):
            raise ServerError(f"{self.name}: the response is not {self.expected}. Check {self.settings[0]}.") from None
        return Reply(text, tokens_in, tokens_out, time.monotonic() - started, answer.retries_taken)

    def _create(self, request: Request, left_out: frozenset[str], timeout: float) -> Any:
        raise NotImplementedError

    def _read(self, body: Any) -> tuple[str, int | None, int | None]:
        raise NotImplementedError

    def _attempt(self, request: Request, left_out: frozenset[str], seconds: float) -> Any:
        sdk = self._sdk
        try:
            return self._create(request, left_out, seconds)
        # `from None` throughout: the SDK's errors contain the server's message, which may repeat the prompt.
        except (_DeadlinePassedError, sdk.APITimeoutError):
            raise deadline_error(self.name, seconds) from None
        except sdk.APIStatusError as error:
            raise self._status_error(error, request) from None
        except sdk.APIConnectionError as error:
            raise ServerError(f"{self.name}: {_broken(error.__cause__)}") from None
        except sdk.APIError as error:  # a body that does not match its content type
            raise ServerError(f"{self.name}: the response cannot be read ({type(error).__name__}).") from None
        except (TypeError, ValueError) as error:
            raise RequestRefused(
                f"{self.name}: the request cannot be built ({type(error).__name__}). The {sdk.__name__} package is "
                f"{sdk.__version__}; install the locked packages (make setup)."
            ) from None

    def _keep_deadline(self, attempt: Any) -> None:
        """Limit an attempt to the time that is left: the SDK would give each attempt the full timeout."""
        left = self._thread.deadline - time.monotonic()
        if left <= 0:
            raise _DeadlinePassedError
        attempt.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), left)

    def _unknown_part(self, refusal: RequestRefused, request: Request) -> str | None:
        """Return the optional part of the request that the server may not support, None if there is none."""
        return "schema" if request.schema else None

    def _status_error(self, error: Any, request: Request) -> ServerError:
        status = error.status_code
        if status in _RETRYABLE or not 400 <= status < 500:
            return ServerError(
                f"{self.name}: HTTP {status} from the server, also after retries. See its log for the cause."
            )
        url_setting, model_setting, key_setting = self.settings
        detail = _quotable(error.body, request, self._key)
        if status in (401, 403):
            message = f"refuses the key (HTTP {status}): check {key_setting} in the environment or .env."
        elif status == 404:
            message = f"refuses the request (HTTP 404{detail}): check {model_setting} ({self.model}) and {url_setting}."
        else:
            message = (
                f"refuses the request (HTTP {status}{detail}): check {model_setting} ({self.model}): it must match "
                "the server's model name exactly."
            )
        refused = RequestRefused(f"{self.name} {message}")
        refused.status = status
        return refused


def escape_control_strings(text: str) -> str:
    """Return the text with an invisible word joiner inside every chat control string, so that it stays plain text.

    Only strings such as `<|name|>` and the tags of thoughts, tool calls and turns are changed.
    """
    return _CONTROL.sub("<" + _JOINER, text)


def _escaped(text: str) -> str:
    # A lone surrogate cannot be encoded in UTF-8, so no request can contain it.
    return escape_control_strings(text).encode("utf-8", "replace").decode("utf-8")


def _broken(cause: BaseException | None) -> str:
    if cause is None or "Connect" in type(cause).__name__:
        return f"no connection ({one_line(cause, 120)})." if cause else "no connection."
    return f"the connection broke ({type(cause).__name__})."


def _quotable(body: object, request: Request, key: str) -> str:
    """Return the server's message as ": message", or an empty string if it repeats the prompt or the key."""
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        body = body["error"]
    message = body.get("detail") or body.get("message") if isinstance(body, dict) else None
    if not isinstance(message, str):
        return ""
    quote = " ".join(message.split())[:200]
    for text in (key, *(sent["content"] for sent in request.messages)):
        match = SequenceMatcher(None, quote, text, autojunk=False).find_longest_match()
        if text and match.size >= min(10, len(text)):
            return ""
    return f": {quote}"
