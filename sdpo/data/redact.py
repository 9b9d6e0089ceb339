"""Replaces what is private in conversations by marks such as [EMAIL_1], the same value by the same mark.

Keys, tokens and passwords are found by detect-secrets' detectors; addresses and numbers by their form and, where they
have one, their checksum; names, if asked for, by presidio. What was replaced is counted by kind, and kept nowhere.
"""

import hashlib
import hmac
import re
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

from sdpo.data.conversation import Conversation
from sdpo.data.patterns import numbers_and_addresses
from sdpo.errors import SettingError, one_line

_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")
_MARK = re.compile(r"\[([A-Z]+)_(\d+)\]")
_KEY_BLOCK = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----.*?"
    r"(?:-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|\Z)",
    re.DOTALL,
)
_PASSWORD = re.compile(
    r"""(?ix)(?<![A-Za-z0-9_])
    (?:pass(?:word|code|phrase|wd)|pwd|passwort|kennwort|contraseña|mot\ de\ passe|mdp|senha)(?![A-Za-z0-9_])
    (?:\s*(?:is|ist|lautet|es|est|é|:|=)\s*|\s+(?=[^\s\d]*\d[^\s\d]*[^\W\d_]|[^\s\d]*[^\W\d_][^\s\d]*\d))(?P<value>[^\s"'`,;]{3,}[^\s"'`,;.!?)])"""
)
_NAMED_KEY = re.compile(
    r"""(?ix)(?<![A-Za-z0-9_])(?:(?<!-)[A-Za-z0-9_-]*(?:api|access|secret|auth|private|client|bearer)[\s_-]?(?:key|token|secret)|bearer|token
    |[a-z][A-Za-z0-9_]*_(?:key|token|secret)(?=["']?\s*[:=])|(?:aws|azure|gcp|client|app)\ secret(?=\s*[:=]))\b
    ["']?\s*(?:is|:|=|\s)\s*["']?(?P<value>[A-Za-z0-9_\-+/=.]{12,})"""
)
_TOKEN = re.compile(r"(?<![A-Za-z0-9_/+.=-])[A-Za-z0-9_+=-]{20,}(?![A-Za-z0-9_/+=-])")
_CREDENTIALS = re.compile(r"(?<=://)[^\s/:@]+:(?P<value>[^\s/@]+)(?=@)")
# Formats of keys that detect-secrets' own detectors do not know yet.
_NEWER_KEYS = re.compile(
    r"(?<![A-Za-z0-9])(?:sk-(?:ant|proj|svcacct|admin|or|lf)-[A-Za-z0-9_-]{16,}|sk-[A-Za-z0-9]{32,}|hf_[A-Za-z0-9]{30,}|AIza[A-Za-z0-9_-]{35}"
    r"|github_pat_[A-Za-z0-9_]{22,}|gh[opsur]_[A-Za-z0-9]{30,}|glpat-[A-Za-z0-9_-]{20,}|gsk_[A-Za-z0-9]{40,}|xai-[A-Za-z0-9]{40,}"
    r"|r8_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{36}|key-[0-9a-f]{32}|nvapi-[A-Za-z0-9_-]{40,}|xox[abeoprs]-[A-Za-z0-9_-]{10,}|pk_live_[A-Za-z0-9_]{20,}|whsec_[A-Za-z0-9_]{20,}"
    r"|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*)"
)
_ENTROPY = 4.0  # bits per character, above which a long word of letters in both cases and digits is no word
_PIECE = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
_PIECES = 0.4  # words and numbers per character, above which it is no name in a program either
# Detectors for which detect-secrets takes any quoted word, or which are done by other means here.
_NOT_BY_PATTERN = {"Secret Keyword", "Private Key", "Public IP (ipv4)", "Basic Auth Credentials"}
_REPEATED = 6  # characters from which on a key or password is looked for again where nothing says what it is
_KINDS = ("KEY", "PASSWORD", "EMAIL", "IBAN", "CARD", "PHONE", "ID", "IP", "MAC", "NAME")


class Span(NamedTuple):
    """A private value in a text: where it is, its kind, and the value in the form in which equal ones agree."""

    start: int
    end: int
    kind: str
    value: str


class Redactor:
    """Redacts conversations, and counts what it replaced by kind."""

    def __init__(self, redact: bool, names: bool = False, id_key: bytes = b"") -> None:
        self._on, self._names, self._id_key = redact, redact and names, id_key
        self.counts: Counter[str] = Counter()

    def report(self) -> dict[str, int] | str:
        """Return the counts by kind, or in words that nothing was looked for or found."""
        if not self._on:
            return "nothing (REDACT=0)"
        return {kind: self.counts[kind] for kind in _KINDS if self.counts[kind]} or "nothing was found (REDACT=1)"

    def words(self, text: str) -> str:
        """Return a text for the report or an error with the kinds of its private values in their places."""
        for span in reversed(_Marks(()).spans(text) if self._on else []):
            text = f"{text[: span.start]}[{span.kind}]{text[span.end :]}"
        return text

    def conversation(self, conversation: Conversation) -> Conversation:
        """Return a conversation whose texts show marks instead of private values, and its id a mark or a hash."""
        if not self._on:
            return conversation
        texts = [message.text for message in conversation.messages]
        marks, found = _Marks(texts), {text: private_spans(text) for text in texts}
        for spans in found.values():
            marks.learn(spans)  # what one message shows to be a secret is one in those before it too
        messages = [
            message._replace(text=self._text(message.text, marks, find=found.__getitem__))
            for message in conversation.messages
        ]
        name = self._text(conversation.id, marks, names=False)
        if self._id_key:
            name = shown_id(conversation.id, self._id_key)
        return Conversation(
            name, messages, conversation.model, conversation.timestamp, conversation.rows, conversation.note
        )

    def for_conversation(
        self, texts: Iterable[str], find: Callable[[str], Sequence["Span"]] | None = None
    ) -> "ConversationRedactor":
        """Return what redacts one text after another of a conversation in which these texts occur.

        A secret is found again in the texts after it. In those before it stays as it was: they may be stored already,
        and a conversation is recognized by them. Names of persons stay. `find` may stand in for `private_spans`, such
        as one that remembers texts.
        """
        marks = _Marks(texts if self._on else ())
        return ConversationRedactor(
            marks, lambda text, marks: self._text(text, marks, names=False, find=find) if self._on else text
        )

    def _text(
        self,
        text: str,
        marks: "_Marks",
        names: bool = True,
        find: Callable[[str], Sequence["Span"]] | None = None,
    ) -> str:
        spans = marks.spans(text, find or private_spans)
        if self._names and names:
            spans = _apart([*spans, *_name_spans(text)])
        parts, end = [], 0
        for span in spans:
            parts += [text[end : span.start], marks.of(span)]
            end = span.end
            self.counts[span.kind] += 1
        return "".join(parts) + text[end:]


class ConversationRedactor:
    """Redacts the texts of one conversation: in all of them a value has the same mark."""

    def __init__(self, marks: "_Marks", redact: Callable[[str, "_Marks"], str]) -> None:
        self._marks, self._redact = marks, redact

    def __call__(self, text: str) -> str:
        """Return the text with marks in the place of private values."""
        return self._redact(text, self._marks)

    def so_far(self, text: str) -> str:
        """Return the same for a text that still grows: what may be half of a value is not remembered."""
        return self._redact(text, self._marks.copy())


class _Marks:
    """The marks of one conversation: each value has one, and none that the conversation itself already contains."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._taken = {match[0] for text in texts for match in _MARK.finditer(text)}
        self._marks: dict[tuple[str, str], str] = {}
        self._last: Counter[str] = Counter()
        self._secrets: dict[str, str] = {}  # value -> kind

    def spans(self, text: str, find: Callable[[str], Sequence[Span]] | None = None) -> list[Span]:
        """Return the private values in a text, those included that only another place shows to be secrets."""
        found = (find or private_spans)(text)
        self.learn(found)
        repeated = list(self._repeats(text))
        return _apart([*found, *repeated]) if repeated else list(found)

    def learn(self, found: Iterable[Span]) -> None:
        """Remember keys and passwords: elsewhere in the conversation nothing may say what they are."""
        for span in found:
            if span.kind in ("KEY", "PASSWORD") and len(span.value) >= _REPEATED:
                self._secrets.setdefault(span.value, span.kind)

    def _repeats(self, text: str) -> Iterator[Span]:
        for value, kind in self._secrets.items():
            start = text.find(value)
            while start >= 0:
                end = start + len(value)
                if not (_is_of_a_word(text[start - 1 : start]) or _is_of_a_word(text[end : end + 1])):
                    yield Span(start, end, kind, value)
                start = text.find(value, end)

    def copy(self) -> "_Marks":
        other = _Marks(())
        other._taken, other._marks, other._last = self._taken, self._marks.copy(), self._last.copy()
        other._secrets = self._secrets.copy()
        return other

    def of(self, span: Span) -> str:
        key = (span.kind, span.value)
        while key not in self._marks:
            self._last[span.kind] += 1
            mark = f"[{span.kind}_{self._last[span.kind]}]"
            if mark not in self._taken:
                self._marks[key] = mark
        return self._marks[key]


def _is_of_a_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def shown_id(name: str, key: bytes) -> str:
    """Return a conversation's id as it is, or its hash by the key if there is a private value in it."""
    if not private_spans(name):
        return name
    return "c-" + letters_of(hmac.new(key, name.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest())


def letters_of(digest: str) -> str:
    """Return the first 16 digits of a hash as letters: digits in a row look like a telephone number or a key."""
    return digest[:16].translate(_LETTERS)


def private_spans(text: str) -> list[Span]:
    """Return the private values in a text, in order, none of which overlap."""
    found = [Span(match.start(), match.end(), "KEY", match[0]) for match in _KEY_BLOCK.finditer(text)]
    found += _secrets(text)
    found += [Span(*one) for one in numbers_and_addresses(text)]
    return _apart(found)


def _apart(found: list[Span]) -> list[Span]:
    """Return spans that do not overlap, in order: of those that do, the kind named first, then the longest."""
    chosen: list[Span] = []  # in order, so only the neighbours of a span may overlap with it
    for span in sorted(found, key=lambda one: (_KINDS.index(one.kind), one.start - one.end)):
        at = bisect(chosen, span)
        free = (not at or chosen[at - 1].end <= span.start) and (at == len(chosen) or span.end <= chosen[at].start)
        if span.end > span.start and free:
            chosen.insert(at, span)
    return chosen


def _secrets(text: str) -> Iterator[Span]:
    """Yield keys, tokens and passwords."""
    patterns, keyword, entropy = _detectors()
    for pattern, kind in patterns:
        for match in pattern.finditer(text):
            yield Span(match.start(), match.end(), kind, match[0])
    for pattern, kind in (
        (_NEWER_KEYS, "KEY"),
        (_CREDENTIALS, "PASSWORD"),
        (_PASSWORD, "PASSWORD"),
        (_NAMED_KEY, "KEY"),
    ):
        for match in pattern.finditer(text):
            group = "value" if "value" in pattern.groupindex else 0
            if pattern is _NEWER_KEYS or _is_secret(match[group], kind):
                yield Span(match.start(group), match.end(group), kind, match[group])
    if "=" in text or ":" in text:
        yield from _by_keyword(text, keyword)
    for match in _TOKEN.finditer(text):
        if _is_mixed(match[0]) and entropy.calculate_shannon_entropy(match[0]) > _ENTROPY:
            yield Span(match.start(), match.end(), "KEY", match[0])


def _by_keyword(text: str, keyword: Any) -> Iterator[Span]:
    """Yield the values that detect-secrets finds beside a word such as `secret`, line by line."""
    start = 0
    for line in text.splitlines(keepends=True):
        if ("=" in line or ":" in line) and any(quote in line for quote in "\"'"):
            for value in keyword.analyze_string(line):
                at = line.find(value) if value and len(value) >= 4 else -1
                if at >= 0 and not _MARK.search(value):
                    yield Span(start + at, start + at + len(value), "PASSWORD", value)
        start += len(line)


def _is_secret(value: str, kind: str) -> bool:
    """Return whether a word beside `password` or `token` is one: words of a sentence have no digits or signs."""
    if kind == "PASSWORD":
        return bool(re.search(r"\d|[^\w.?!)]", value)) and not _MARK.search(value)
    return bool(re.search(r"\d", value)) and bool(re.search(r"[A-Za-z]", value))


def _is_mixed(value: str) -> bool:
    """Return whether a word has letters in both cases and digits in no order, unlike names in a program."""
    mixed = sum(one.isdigit() for one in value) >= 2 and value != value.lower() and value != value.upper()
    return mixed and len(_PIECE.findall(value)) / len(value) > _PIECES


@cache
def _detectors() -> tuple[list[tuple[re.Pattern, str]], Any, Any]:
    """Return the patterns of detect-secrets with their kinds, its detector by keyword, and the one by entropy."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    classes: dict[str, Any] = get_mapping_from_secret_type_to_class()
    patterns = [
        (pattern if isinstance(pattern, re.Pattern) else re.compile(pattern), "KEY")
        for name, detector in classes.items()
        if name not in _NOT_BY_PATTERN and not name.endswith("Entropy String")
        for pattern in getattr(detector, "denylist", ())
    ]
    return patterns, classes["Secret Keyword"](), classes["Base64 High Entropy String"](limit=_ENTROPY)


# Names of persons


def check_names(redact: bool) -> None:
    """Raise SettingError if REDACT_NAMES cannot be done: without REDACT, or without presidio and a language model."""
    if not redact:
        raise SettingError("REDACT_NAMES=1 needs REDACT=1. Give both, or neither.")
    if find_spec("presidio_analyzer") is None:
        raise SettingError(
            "REDACT_NAMES=1 needs presidio, which is not installed. Install it: pip install 'sdpo[names]', then "
            "python -m spacy download en_core_web_lg; or leave REDACT_NAMES out."
        )


def _name_spans(text: str) -> Iterator[Span]:
    for found in _analyzer().analyze(text=text, language="en", entities=["PERSON"]):
        value = text[found.start : found.end]
        yield Span(found.start, found.end, "NAME", " ".join(value.split()).lower())


@cache
def _analyzer() -> Any:
    check_names(True)
    from presidio_analyzer import AnalyzerEngine

    try:
        return AnalyzerEngine()
    except (Exception, SystemExit) as error:  # it exits where the language model is missing and cannot be had
        raise SettingError(
            f"REDACT_NAMES=1: presidio does not start: {one_line(error, 120)} Install its language model: python -m "
            "spacy download en_core_web_lg; or leave REDACT_NAMES out."
        ) from None
