"""The common part of the HTTP backends: the deadline, errors that name a setting, and what must not be logged.

Only the SDKs retry. Both SDKs come from one generator, so they fail in the same manner.
"""

import json
import logging
import re
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any, ClassVar

from sdpo.errors import ServerError, one_line
from sdpo.llm import refusals
from sdpo.llm.address import shown_url
from sdpo.llm.backend import Reply, Request, RequestRefused, checked_key, deadline_error

# Strings that a server turns into control tokens: <|im_end|> and the like, tags of thoughts, tool calls and turns.
_CONTROL = re.compile(r"<(?=[|｜][^<>|｜]*[|｜]>|/?(?:think|tool_call|tool_response|start_of_turn|end_of_turn)>)")
_JOINER = "\u2060"

# The 4xx statuses after which a retry may succeed: timeout, conflict, too early, too many requests.
_RETRYABLE = {408, 409, 425, 429}
# The statuses that may mean that the server does not support a part of the request, even if it does not say which.
_UNKNOWN_PART = {400, 422}
# The statuses that may mean that the API is at another path; 200 with a page is one too.
_UNKNOWN_PATH = {200, 404, 405}

_BLANK_NOTE = "fills structured output with blanks: it is asked for text instead (vLLM: disable_any_whitespace)"
_MOST_TOKENS = 10**9  # of one reply; what a server counts more cannot be right

# At lower levels these loggers write complete requests, headers and URLs with passwords.
_VERBOSE_LOGGERS = ("openai", "anthropic", "httpx", "httpx2", "httpcore", "httpcore2")


class DeadlinePassedError(BaseException):
    """The time of a request has passed. A BaseException, because the SDKs retry after any Exception."""


@dataclass(eq=False)
class _Refusal(Exception):
    """An answer that is no reply: the error for people, the status, and the parts that the server's words name.

    `final` is whether no other form of the request can succeed. `most_tokens` is the longest reply that the server
    gives, if it refuses the request for a longer one.
    """

    error: ServerError
    status: int
    named: list[str] = field(default_factory=list)
    final: bool = False
    most_tokens: int | None = None
    note: str = ""  # said on the screen once the named part is changed, instead of that of `HttpBackend.notes`


class HttpBackend:
    """A model behind HTTP. A subclass implements the SDK call (`_create`) and reads its response (`_read`).

    What a server refuses is left out of later requests, or sent as the server wants it (`_changes`).
    """

    kind = ""
    settings = ("", "", "")  # the names of the settings for URL, model and key, for messages
    expected = "a chat completion, from an address that ends in /v1"
    # The parts that may be changed, and those of them that are tried if a server does not say what it refuses.
    changeable: tuple[str, ...] = (refusals.SCHEMA, refusals.TEMPERATURE)
    unnamed: tuple[str, ...] = (refusals.SCHEMA,)
    # What is said on the screen once a part is changed.
    notes: ClassVar[dict[str, str]] = {refusals.TEMPERATURE: "takes no temperature: its replies are drawn at its own"}

    def __init__(self, sdk: ModuleType, url: str, model: str, key: str) -> None:
        self.address = url
        self.url = shown_url(url)
        self.model = model
        self.name = f"{model} at {self.url}"
        self._sdk, self._key = sdk, checked_key(key, self.settings[2])
        self._thread = threading.local()
        self._changes: set[str] = set()
        self._accepted: set[str] = set()
        self._most_tokens = _MOST_TOKENS
        self._lock = threading.Lock()
        for name in _VERBOSE_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)

    def ask(self, request: Request, deadline_seconds: float) -> Reply:
        """Return the reply.

        Raises RequestRefused if no attempt can succeed, ServerError if a later one may.
        """
        started = time.monotonic()
        self._thread.deadline = started + deadline_seconds
        messages = [{**message, "content": _escaped(message["content"])} for message in request.messages]
        request = replace(request, messages=messages, max_tokens=min(request.max_tokens, self._most_tokens))
        changes, guess, guesses = set(self._changes), set[str](), None
        first: ServerError | None = None  # of the refusals that did not say what is refused
        while True:
            try:
                reply, retries = self._attempt(request, frozenset(changes | guess), deadline_seconds)
                break
            except _Refusal as refusal:
                if refusal.most_tokens is not None and refusal.most_tokens < request.max_tokens:
                    self._most_tokens = refusal.most_tokens
                    request = replace(request, max_tokens=refusal.most_tokens)
                    continue
                if part := self._named_part(refusal, request, changes):
                    changes.add(part)
                    first = None
                    self._remember({part}, refusal.note)
                    continue
                if refusal.final:
                    raise refusal.error from None
                first = first or refusal.error
                if self._may_lack_version(refusal, request, changes):
                    changes.add(refusals.ADDRESS)
                    continue
                if guesses is None:
                    guesses = self._guesses(request, changes)
                if refusal.status not in _UNKNOWN_PART or not guesses:
                    raise first from None
                guess = guesses.pop(0)
        self._remember(changes | guess)  # what was not named is remembered only now that the server has answered
        self._accepted |= self._parts(request) - changes - guess
        return replace(reply, seconds=time.monotonic() - started, retries=retries)

    def _create(self, request: Request, changes: frozenset[str], timeout: float) -> Any:
        raise NotImplementedError

    def _read(self, body: Any) -> Reply:
        """Return the reply in a response body; any exception means that the body is not what was expected."""
        raise NotImplementedError

    def _parts(self, request: Request) -> set[str]:
        """Return the changeable parts that a request has."""
        return {part for part in self.changeable if part != refusals.SCHEMA or request.schema}

    def _attempt(self, request: Request, changes: frozenset[str], seconds: float) -> tuple[Reply, int]:
        """Return the reply and the number of the SDK's retries. Raises _Refusal for an answer that is no reply."""
        sdk = self._sdk
        try:
            answer = self._create(request, changes, seconds)
        # `from None` throughout: the SDK's errors contain the server's message, which may repeat the prompt.
        except (DeadlinePassedError, sdk.APITimeoutError):
            raise deadline_error(self.name, seconds) from None
        except sdk.APIStatusError as error:
            raise self._refusal(error.status_code, error.body, request) from None
        except sdk.APIConnectionError as error:
            raise ServerError(f"{self.name}: {broken(error.__cause__)}") from None
        except sdk.APIError as error:  # a body that does not match its content type
            raise ServerError(f"{self.name}: the response cannot be read ({type(error).__name__}).") from None
        except (TypeError, ValueError) as error:
            raise RequestRefused(
                f"{self.name}: the request cannot be built ({type(error).__name__}). The {sdk.__name__} package is "
                f"{sdk.__version__}; install the locked packages (make setup)."
            ) from None
        try:
            body = answer.parse()
            embedded = refusals.embedded_error(body)
            reply = None if embedded else _checked(self._read(body))
        except Exception:  # the SDK raises many types for a body that it does not expect
            embedded = reply = None
        if embedded:
            raise self._refusal(*embedded, request)
        if reply is not None and request.schema and refusals.SCHEMA not in changes and refusals.is_blank(reply.text):
            blank = ServerError(f"{self.name}: structured output that ends in blanks.")
            raise _Refusal(blank, 200, [refusals.SCHEMA], note=_BLANK_NOTE)
        if reply is None:
            unread = f"{self.name}: the response is not {self.expected}. Check {self.settings[0]}."
            raise _Refusal(ServerError(unread), 200)
        return reply, answer.retries_taken

    def _hooks(self) -> dict[str, list]:
        """Return what the HTTP client calls before each attempt and with each answer."""
        return {"request": [self._keep_deadline], "response": [self._stop_retries]}

    def _keep_deadline(self, attempt: Any) -> None:
        """Limit an attempt to the time that is left: the SDK would give each attempt the full timeout."""
        left = self._thread.deadline - time.monotonic()
        if left <= 0:
            raise DeadlinePassedError
        attempt.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), left)

    def _stop_retries(self, response: Any) -> None:
        """Tell the SDK not to retry what no retry resolves: a spent quota, and a part that the server refuses."""
        if response.status_code not in (429, 500, 501):
            return
        body = _body_of(response)
        words = refusals.words_of(body)
        named = response.status_code != 429 and set(refusals.names_of(words)) & set(self.changeable)
        if named or refusals.is_out_of_credit(response.status_code, body):
            response.headers["x-should-retry"] = "false"

    def _named_part(self, refusal: _Refusal, request: Request, changes: set[str]) -> str | None:
        """Return a part of the request, not changed yet, that the server's words name; None if there is none."""
        present = self._parts(request) - changes
        return next((part for part in refusal.named if part in present), None)

    def _may_lack_version(self, refusal: _Refusal, request: Request, changes: set[str]) -> bool:
        return refusal.status in _UNKNOWN_PATH and refusals.ADDRESS in self._parts(request) - changes

    def _guesses(self, request: Request, changes: set[str]) -> list[set[str]]:
        """Return what to change if a server does not say what it refuses: one part at a time, then all together."""
        unknown = self._parts(request) - changes - self._accepted
        parts = [part for part in self.unnamed if part in unknown]
        return [*({part} for part in parts), *([set(parts)] if len(parts) > 1 else [])]

    def _remember(self, changes: set[str], note: str = "") -> None:
        with self._lock:
            new = changes - self._changes
            self._changes |= new
        for part in sorted(new):
            if text := note or self.notes.get(part):
                print(f"{self.name} {text}.", file=sys.stderr, flush=True)

    def _refusal(self, status: int, body: object, request: Request) -> _Refusal:
        """Return the refusal for an answer with this status and body."""
        words = refusals.words_of(body)
        private = [self._key, *(sent["content"] for sent in request.messages)]
        detail = f"HTTP {status}{refusals.quotable(words, private)}"
        final, advice = True, ""
        url_setting, model_setting, key_setting = self.settings
        if refusals.is_out_of_credit(status, body):
            advice = f"top up the account of {key_setting}, or use another one."
        elif refusals.is_too_long(status, words):
            advice = (
                "the request is too long for it: give the server a longer context, or lower MAX_PROMPT_TOKENS and "
                "MAX_COMPLETION_TOKENS."
            )
        elif status == 200:
            return _Refusal(ServerError(f"{self.name}: an error instead of a reply ({detail})."), status)
        elif status in _RETRYABLE or status >= 500:
            error = ServerError(
                f"{self.name}: {detail} from the server, also after retries. See its log for the cause."
            )
            return _Refusal(error, status, refusals.names_of(words))
        elif status == 401:
            detail = "HTTP 401"  # its words may contain parts of the key
            advice = f"check {key_setting} in the environment or .env."
        elif status == 403:
            advice = f"check {key_setting} in the environment or .env."
        elif status == 404:
            final, advice = False, f"check {model_setting} ({self.model}) and {url_setting}."
        else:
            advice = f"check {model_setting} ({self.model}): it must match the server's model name exactly."
            final = False
        what = "the key" if status in (401, 403) else "the request"
        named = [key_setting] if final else [model_setting, url_setting]
        refused = RequestRefused(f"{self.name} refuses {what} ({detail}): {advice}", *named)
        return _Refusal(refused, status, refusals.names_of(words), final, refusals.most_tokens_of(status, words))


def escape_control_strings(text: str) -> str:
    """Return the text with an invisible word joiner inside every chat control string, so that it stays plain text.

    Only strings such as `<|name|>` and the tags of thoughts, tool calls and turns are changed.
    """
    return _CONTROL.sub("<" + _JOINER, text)


def _escaped(text: str) -> str:
    # A lone surrogate cannot be encoded in UTF-8, so no request can contain it.
    return escape_control_strings(text).encode("utf-8", "replace").decode("utf-8")


def _checked(reply: Reply) -> Reply | None:
    """Return a reply whose text can be written and whose counts can be added; None if its text is no text."""
    if not isinstance(reply.text, str):
        return None
    raw = _writable(reply.raw) if isinstance(reply.raw, str) else None
    tokens_in, tokens_out = _count(reply.tokens_in), _count(reply.tokens_out)
    return Reply(_writable(reply.text), tokens_in, tokens_out, raw=raw)


def _writable(text: str) -> str:
    # JSON can hold half a surrogate pair, which neither a file nor a tokenizer takes.
    return text.encode("utf-8", "replace").decode("utf-8")


def _count(value: Any) -> int | None:
    """Return a number of tokens, None for what cannot be one."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if number and 0 <= value < _MOST_TOKENS else None


def broken(cause: BaseException | None) -> str:
    """Return a sentence on why there is no connection, or none any more."""
    if cause is None or "Connect" in type(cause).__name__:
        return f"no connection ({one_line(cause, 120)})." if cause else "no connection."
    return f"the connection broke ({type(cause).__name__})."


def _body_of(response: Any) -> object:
    """Return the body of an HTTP response: JSON, or text if it is none."""
    text = response.read().decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
