"""Replaces what is private in conversations by marks such as [EMAIL_1], the same value by the same mark.

Keys, passwords, addresses and numbers are those of `private_values`; names, if asked for, are found by presidio. What
was replaced is counted by kind, and kept nowhere.
"""

import hashlib
import hmac
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

from sdpo.data.conversation import Conversation
from sdpo.data.private_values import KINDS, MARK, Span, apart, private_spans
from sdpo.errors import SettingError, in_environment, one_line, pip_install

_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")
_LANGUAGE_MODEL = in_environment("python -m spacy download en_core_web_lg")
_REPEATED = 6  # characters from which on a key or password is looked for again where nothing says what it is


class Redactor:
    """Redacts conversations, and counts what it replaced by kind."""

    def __init__(self, redact: bool, names: bool = False, id_key: bytes = b"") -> None:
        self._on, self._names, self._id_key = redact, redact and names, id_key
        self.counts: Counter[str] = Counter()

    def report(self) -> dict[str, int] | str:
        """Return the counts by kind, or in words that nothing was looked for or found."""
        if not self._on:
            return "nothing (REDACT=0)"
        return {kind: self.counts[kind] for kind in KINDS if self.counts[kind]} or "nothing was found (REDACT=1)"

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
            spans = apart([*spans, *_name_spans(text)])
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
        self._taken = {match[0] for text in texts for match in MARK.finditer(text)}
        self._marks: dict[tuple[str, str], str] = {}
        self._last: Counter[str] = Counter()
        self._secrets: dict[str, str] = {}  # value -> kind

    def spans(self, text: str, find: Callable[[str], Sequence[Span]] | None = None) -> list[Span]:
        """Return the private values in a text, those included that only another place shows to be secrets."""
        found = (find or private_spans)(text)
        self.learn(found)
        repeated = list(self._repeats(text))
        return apart([*found, *repeated]) if repeated else list(found)

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


# Names of persons


def check_names(redact: bool) -> None:
    """Raise SettingError if REDACT_NAMES cannot be done: without REDACT, or without presidio and a language model."""
    if not redact:
        raise SettingError("REDACT_NAMES=1 needs REDACT=1. Give both, or neither.")
    if find_spec("presidio_analyzer") is None:
        raise SettingError(
            f"REDACT_NAMES=1 needs presidio, which is not installed. Install it: {pip_install('sdpo[names]')}, then "
            f"{_LANGUAGE_MODEL}; or leave REDACT_NAMES out."
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
            f"REDACT_NAMES=1: presidio does not start: {one_line(error, 120)} Install its language model: "
            f"{_LANGUAGE_MODEL}; or leave REDACT_NAMES out."
        ) from None
