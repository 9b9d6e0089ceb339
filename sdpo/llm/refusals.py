"""What a server's error says: its words without the prompt, what it does not accept, and what no retry resolves.

Servers agree on the statuses and on little else, so their words are read.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from sdpo.errors import on_one_line

# The parts of a request that a server may refuse -> the words by which it names them, in the order in which they are
# changed. `address` has no words: a server that does not know the path answers 404.
THOUGHTS, SCHEMA, TEMPERATURE, MAX_TOKENS, SYSTEM = "thoughts", "schema", "temperature", "max_tokens", "system"
ADDRESS = "address"
_NAMES = {
    THOUGHTS: r"chat_template|enable_thinking|extra_body",
    SCHEMA: r"response_format|json_schema|structured.?output|guided|output_config|output_format|json.?mode",
    MAX_TOKENS: r"max_completion_tokens|max_tokens\W+(?:is|are|was)?\s*(?:not supported|unsupported|deprecated)",
    TEMPERATURE: r"\btemperature\b",
    SYSTEM: r"system\W{0,3}(?:role|message|prompt|instruction)|\brole\b.{0,60}\bsystem\b|\bsystem\b.{0,40}\brole"
    r"|roles? must alternate|developer instruction|messages\[0\]\.role|support\w*.{0,20}\bsystem\b",
}
# A value that is out of range is for its owner to correct.
_OUT_OF_RANGE = re.compile(r"less than|greater than|between|(?:maxi|mini)mum value|range|too (?:large|high|low)", re.I)

_TOO_LONG = re.compile(
    r"context_length_exceeded|context (?:length|window|size)|maximum context|max_model_len|prompt (?:is )?too long"
    r"|input (?:is )?too long|too many (?:input )?tokens|request.{0,20}too large|payload too large"
    r"|(?:longer|exceeds?) .{0,40}(?:context|tokens)",
    re.IGNORECASE,
)
# "max_tokens=4096 cannot be greater than max_model_len=2048", "too large: 9. This model supports at most 8", "9 > 8"
_LONGEST = re.compile(
    r"max_(?:completion_)?tokens\b[^\n]{0,80}?(?:max_model_len\W{1,3}|supports at most |> )(\d{1,9})\b", re.IGNORECASE
)
_BLANKS = 16  # so many at the end of structured output, and a model has lost its way
_NO_CREDIT = re.compile(
    r"insufficient[_ ](?:quota|balance|credits?|funds)|billing_(?:hard_limit|not_active)|credit balance is too low"
    r"|payment required|exceeded your monthly",
    re.IGNORECASE,
)
_BROKEN_OFF = ("abort", "error")  # how a reply ends that a server (vLLM) gave up in the middle
# A repeated header, or what looks like a key of any kind.
_CREDENTIAL = re.compile(r"\b(?:authorization\b\W*)?bearer\b|\bauthorization\b|\b(?:sk|pk|hf|key)[-_][\w*-]{8,}", re.I)
# What a server writes for characters of the prompt that it repeats as JSON or as Python would show it.
_ESCAPE = re.compile(r"\\+(?:u([\da-f]{4})|x([\da-f]{2})|([abfnrtv])|([\"'/]))", re.I)
_QUOTED = 300  # characters of a server's words that a message repeats
_READ = 10_000  # characters of them that are read
_REPEATED = 16  # so many characters in a row that the prompt has too are its words, not the server's


def words_of(body: object, levels: int = 8) -> str:
    """Return an error's code and message from a body of any common form; empty if there is none.

    Only so many `levels` of values within values are looked through.
    """
    if isinstance(body, str):
        return "" if body.lstrip().startswith("<") else body  # a page is for a browser
    if isinstance(body, list):
        return "; ".join(filter(None, (words_of(part, levels - 1) for part in body))) if levels else ""
    if not isinstance(body, dict) or not levels:
        return ""
    if body.get("error"):
        return words_of(body["error"], levels - 1)
    message = next((body[name] for name in ("message", "detail", "msg", "error_message") if body.get(name)), "")
    text = message if isinstance(message, str) else words_of(message, levels - 1)
    if isinstance(location := body.get("loc"), list):
        text = f"{'.'.join(map(str, location))}: {text}"
    return text


def is_too_long(status: int, words: str) -> bool:
    """Return whether a server refuses a request because of its length."""
    return status == 413 or bool(status in (400, 422, 500) and _TOO_LONG.search(words))


def most_tokens_of(status: int, words: str) -> int | None:
    """Return the most tokens that a server gives in a reply, if it refuses a request for more; None if it does not."""
    found = _LONGEST.search(words) if status in (400, 422) else None
    return int(found[1]) if found and int(found[1]) else None


def is_blank(text: str) -> bool:
    """Return whether structured output is cut off in a row of blanks.

    Between two parts of JSON any number of them is allowed, and some models write nothing else until the limit.
    """
    return len(text) - len(text.rstrip()) >= _BLANKS


def is_out_of_credit(status: int, body: object) -> bool:
    """Return whether a server refuses requests until somebody pays: no retry helps, unlike with a rate limit."""
    return status == 402 or bool(status in (400, 403, 429) and _NO_CREDIT.search(_all_of(body)))


def names_of(words: str) -> list[str]:
    """Return the parts of a request that a server's words name as not supported."""
    if _TOO_LONG.search(words):
        return []
    named = [part for part, pattern in _NAMES.items() if re.search(pattern, words, re.IGNORECASE)]
    return [part for part in named if part != TEMPERATURE or not _OUT_OF_RANGE.search(words)]


def quotable(words: str, private: Sequence[str]) -> str:
    """Return the words as ": words", shortened, without stretches of the private texts; empty if nothing is left."""
    words = _plain(_CREDENTIAL.sub("…", words[:_READ]))[: 2 * _QUOTED]
    repeated = [False] * len(words)
    for text in map(_plain, private):
        size = min(_REPEATED, len(text))
        for start in range(len(words) - size + 1 if size > 2 else 0):
            if words[start : start + size] in text:
                repeated[start : start + size] = [True] * size
    shown = re.sub("\0+", "…", "".join("\0" if hidden else char for char, hidden in zip(words, repeated, strict=True)))
    shown = shown if len(shown) <= _QUOTED else shown[: _QUOTED - 1] + "…"
    return f": {shown.rstrip('.')}" if re.search(r"\w{3}", shown) else ""


def _plain(text: str) -> str:
    """Return a text on one line, with characters in place of escapes, so that two forms of one text are equal."""

    def character(escape: re.Match[str]) -> str:
        code = escape[1] or escape[2]
        return chr(int(code, 16)) if code else escape[4] or " "

    text = _ESCAPE.sub(character, text)
    return on_one_line(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"), len(text))


def embedded_error(body: Any) -> tuple[int, object] | None:
    """Return status and error of a body that is an error although its status was 200; None if it is none.

    A reply that the server broke off is one: what there is of it would pass for all of it.
    """
    choices = getattr(body, "choices", None)
    for holder in (body, *(choices[:1] if isinstance(choices, list) else [])):
        error = holder.get("error") if isinstance(holder, dict) else getattr(holder, "error", None)
        if error:
            code = error.get("code") if isinstance(error, dict) else None
            return (code if isinstance(code, int) and 400 <= code < 600 else 200), error
        if (reason := getattr(holder, "finish_reason", None)) in _BROKEN_OFF:
            return 200, f"the server broke the reply off (finish_reason {reason})"
    return None


def _all_of(body: object) -> str:
    """Return the complete body as text: codes and types are in it too."""
    try:
        return body if isinstance(body, str) else json.dumps(body, default=str)
    except RecursionError:
        return ""
