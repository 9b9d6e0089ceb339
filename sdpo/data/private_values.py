"""Finds what is private in a text. Pure functions.

Keys, tokens and passwords are found by detect-secrets' detectors; addresses and numbers by their form and, where they
have one, their checksum.
"""

import re
from bisect import bisect
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from sdpo.data.patterns import numbers_and_addresses

KINDS = ("KEY", "PASSWORD", "EMAIL", "IBAN", "CARD", "PHONE", "ID", "IP", "MAC", "NAME")
MARK = re.compile(r"\[([A-Z]+)_(\d+)\]")
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


class Span(NamedTuple):
    """A private value in a text: where it is, its kind, and the value in the form in which equal ones agree."""

    start: int
    end: int
    kind: str
    value: str


def private_spans(text: str) -> list[Span]:
    """Return the private values in a text, in order, none of which overlap."""
    found = [Span(match.start(), match.end(), "KEY", match[0]) for match in _KEY_BLOCK.finditer(text)]
    found += _secrets(text)
    found += [Span(*one) for one in numbers_and_addresses(text)]
    return apart(found)


def apart(found: list[Span]) -> list[Span]:
    """Return spans that do not overlap, in order: of those that do, the kind named first, then the longest."""
    chosen: list[Span] = []  # in order, so only the neighbours of a span may overlap with it
    for span in sorted(found, key=lambda one: (KINDS.index(one.kind), one.start - one.end)):
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
                if at >= 0 and not MARK.search(value):
                    yield Span(start + at, start + at + len(value), "PASSWORD", value)
        start += len(line)


def _is_secret(value: str, kind: str) -> bool:
    """Return whether a word beside `password` or `token` is one: words of a sentence have no digits or signs."""
    if kind == "PASSWORD":
        return bool(re.search(r"\d|[^\w.?!)]", value)) and not MARK.search(value)
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
