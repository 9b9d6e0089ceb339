"""What the backends over HTTP share: the deadline, errors in words that name a setting, and what is kept quiet.

The SDKs' own retries are the only ones. Both are made by one generator, so they fail in the same ways.
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

# Strings that become control tokens inside a server: <|im_end|> and its kin, thoughts, tool calls, turns.
_CONTROL = re.compile(r"<(?=[|｜][^<>|｜]*[|｜]>|/?(?:think|tool_call|tool_response|start_of_turn|end_of_turn)>)")
_JOINER = "\u2060"

# The 4xx answers that another attempt can mend: timeout, conflict, too early, too many requests.
_RETRYABLE = {408, 409, 425, 429}
# The answers that may mean an optional part of the request that the server does not know.
_UNKNOWN_PART = {400, 422}

# At their lower levels these write whole requests, headers and addresses with passwords.
_VERBOSE_LOGGERS = ("openai", "anthropic", "httpx", "httpx2", "httpcore", "httpcore2")


class _DeadlinePassedError(BaseException):
    """Not an Exception: the SDKs would try again after any of those."""


class HttpBackend:
    """A model behind HTTP. A subclass says how the SDK is asked (`_create`) and what came back (`_read`)."""

    kind = ""
    settings = ("", "", "")  # the names of the settings that hold the address, the model and the key
    expected = "a chat completion, from an address that ends in /v1"

    def __init__(self, sdk: ModuleType, url: str, model: str, key: str) -> None:
        if not (key.isascii() and key.isprintable()):
            raise SettingError(f"{self.settings[2]} holds characters that no key has. Copy it again.")
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
        """Return the reply; raise Refused where no attempt can succeed, ServerError where a later one may."""
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
                # Asked without it, the server either answers or says what else is wrong.
                self._left_out.add(part)
        try:
            text, tokens_in, tokens_out = self._read(answer.parse())
        except Exception:  # whatever the SDK makes of a body that is none of its own
            text = None
        if not isinstance(text, str):
            words = f"what came back is not {self.expected}. Check {self.settings[0]}."
            raise ServerError(f"{self.name}: {words}") from None
        return Reply(text, tokens_in, tokens_out, time.monotonic() - started, answer.retries_taken)

    def _create(self, request: Request, left_out: frozenset[str], timeout: float) -> Any:
        raise NotImplementedError

    def _read(self, body: Any) -> tuple[str, int | None, int | None]:
        raise NotImplementedError

    def _attempt(self, request: Request, left_out: frozenset[str], seconds: float) -> Any:
        sdk = self._sdk
        try:
            return self._create(request, left_out, seconds)
        # `from None` throughout: the SDK's errors carry the server's words, which may repeat the prompt.
        except (_DeadlinePassedError, sdk.APITimeoutError):
            raise deadline_error(self.name, seconds) from None
        except sdk.APIStatusError as error:
            raise self._status_error(error, request) from None
        except sdk.APIConnectionError as error:
            raise ServerError(f"{self.name}: {_broken(error.__cause__)}") from None
        except sdk.APIError as error:  # a body that is not what its content type says
            raise ServerError(f"{self.name}: the answer cannot be read ({type(error).__name__}).") from None
        except (TypeError, ValueError) as error:
            raise RequestRefused(
                f"{self.name}: the request cannot be made ({type(error).__name__}). The {sdk.__name__} package is "
                f"{sdk.__version__}; install the locked packages (make setup)."
            ) from None

    def _keep_deadline(self, attempt: Any) -> None:
        """Give an attempt no more time than is left: the SDK would give each the whole of it."""
        left = self._thread.deadline - time.monotonic()
        if left <= 0:
            raise _DeadlinePassedError
        attempt.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), left)

    def _unknown_part(self, refusal: RequestRefused, request: Request) -> str | None:
        """Return which optional part of the request the server may have refused."""
        return "schema" if request.schema else None

    def _status_error(self, error: Any, request: Request) -> ServerError:
        status = error.status_code
        if status in _RETRYABLE or not 400 <= status < 500:
            return ServerError(f"{self.name}: HTTP {status} from the server, also after retries. Its log says why.")
        url_setting, model_setting, key_setting = self.settings
        detail = _quotable(error.body, request, self._key)
        if status in (401, 403):
            words = f"refuses the key (HTTP {status}): check {key_setting} in the environment or .env."
        elif status == 404:
            words = f"refuses the request (HTTP 404{detail}): check {model_setting} ({self.model}) and {url_setting}."
        else:
            words = (
                f"refuses the request (HTTP {status}{detail}): check {model_setting} ({self.model}): it must match "
                "the server's model to the letter."
            )
        refused = RequestRefused(f"{self.name} {words}")
        refused.status = status
        return refused


def escape_control_strings(text: str) -> str:
    """Return the text with an invisible joiner inside every chat-control string, so that it stays text.

    Only `<|name|>` forms and the tags of thoughts, tool calls and turns are touched.
    """
    return _CONTROL.sub("<" + _JOINER, text)


def _escaped(text: str) -> str:
    # Half of a pair of surrogates has no place in UTF-8, and so in no request.
    return escape_control_strings(text).encode("utf-8", "replace").decode("utf-8")


def _broken(cause: BaseException | None) -> str:
    if cause is None or "Connect" in type(cause).__name__:
        return f"no connection ({one_line(cause, 120)})." if cause else "no connection."
    return f"the connection broke ({type(cause).__name__})."


def _quotable(body: object, request: Request, key: str) -> str:
    """Return the server's own words as `: words`, or nothing where they repeat the prompt or the key."""
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        body = body["error"]
    found = body.get("detail") or body.get("message") if isinstance(body, dict) else None
    if not isinstance(found, str):
        return ""
    words = " ".join(found.split())[:200]
    for text in (key, *(message["content"] for message in request.messages)):
        match = SequenceMatcher(None, words, text, autojunk=False).find_longest_match()
        if text and match.size >= min(10, len(text)):
            return ""
    return f": {words}"
