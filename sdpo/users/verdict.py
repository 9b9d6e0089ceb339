"""What a judge's reply says: a verdict in any form that cannot mean another one, or none."""

import json
import re
from collections.abc import Iterator
from typing import Any

from sdpo.text.prompts import VERDICTS

# A line that is a verdict, apart from marks that a model may put around it. A letter elsewhere is not a verdict.
_LINE = re.compile(r"[\s\"'*`#_>-]*(?:final\s+)?verdict[\s*_]*:[\s*_`]*([ABC])[\s\"'*`_.]*", re.IGNORECASE)
# Here and below no part is tried again (`*+`): a long row of one sign, as a model that loops writes, would take hours.
_FENCED = re.compile(r"(?:\A|(?<=\n))[ \t]*+```[\w-]*+(?P<inside>(?:(?!```).)*+)```\s*\Z", re.DOTALL)
_OBJECT = re.compile(r"(?:\A|(?<=\n))[^\S\n]*+\{[^{}]*+\}\s*\Z")

# What may not stand above a verdict unless it says the same: another verdict, or another answer that is preferred.
# A lower-case letter is a label only right behind "verdict" or "answer": elsewhere it is the article.
_SIGNS = r"[\"'*`(\[]*+"
_LABEL = rf"{_SIGNS}(?:(?:answer|option|response)\s+{_SIGNS}\b([ABC])\b|\b((?-i:[ABC]))\b)"
_NAMED = r"\b(?:(?:answer|option|response)\s+[\"'*`(\[]{0,3}([ABC])|((?-i:[ABC])))\b[\"'*`)\]]*+"
_NOT = r"(?:not|never|hardly|\w+n['’]t)"
_CHOOSE = r"(?:choose|chose|pick|select|prefer|favou?r|go(?:ing)? with|vote for|lean(?:ing)? towards?)"
_BETTER = r"(?:better|best|wins|preferable|preferred|superior)"


def _patterns(*patterns: str) -> list[re.Pattern[str]]:
    return [re.compile(pattern, re.IGNORECASE) for pattern in patterns]


# What says that an answer is not the better one, which leaves open whether the other is; then that the other one is.
_NOT_PREFERRED = _patterns(
    rf"{_NAMED}(?:\s+[\w'’]+){{0,2}}?\s+{_NOT}(?:\s+\w+){{0,3}}\s+{_BETTER}\b",
    rf"\b{_NOT}\s+(?:\w+\s+){{0,2}}?{_CHOOSE}\s+{_LABEL}",
    rf"\bnot\s+{_LABEL}",
)
_WORSE = _patterns(rf"{_NAMED}(?:\s+[\w'’]+){{0,3}}?\s+(?:worse|worst|loses|inferior|weaker)\b")
_PREFERRED = _patterns(
    r"verdict\W*+(?:(?:is|would be)\W+)?(?:(?:answer|option|response)\W+)?([ABC])\b",
    rf"(?:better|best|winner|choice|preferred)(?:\s+\w+)?\s*(?:is|:|=|would be)\s*{_LABEL}",
    rf"{_CHOOSE}\s+{_LABEL}",
    rf"{_NAMED}(?:\s+\w+){{0,3}}\s+{_BETTER}\b",
    rf"{_NAMED}\s+(?:beats|outperforms|surpasses)\b",
    rf"{_NAMED}\s*>\s*{_LABEL}",
    rf"{_NAMED}\s+(?:is|would be)\s+(?:my|the)\s+(?:choice|winner|verdict)",
)
_NEITHER = re.compile(
    r"\bneither\b|\b(?:a|it's a|is a) (?:tie|draw)\b|\bequally\b|\bno (?:clear )?(?:winner|preference)\b", re.IGNORECASE
)
# Its last line may be an answer's, not the judge's.
_QUOTED_PROMPT = re.compile(r"^[^\w\n]*+Answer [AB]:[^\S\n]*$", re.MULTILINE)


def read_verdict(text: str) -> str | None:
    """Return A, B or C if a reply without thoughts is a verdict, otherwise None.

    A reply is a verdict if its last line is, or JSON at its end, and nothing above contradicts that.
    """
    text = text.strip()
    if (label := _label_of(text)) is not None:
        return label
    if found := _FENCED.search(text):
        above, end = text[: found.start()], found["inside"].strip()
    elif found := _OBJECT.search(text):
        above, end = text[: found.start()], found[0]
    else:
        above, _, end = text.rpartition("\n")
    label = _label_of(end)
    return None if label is None or _contradicts(above, label) else label


def _label_of(text: str) -> str | None:
    """Return the label in a line or a JSON object that is a verdict, otherwise None."""
    if match := _LINE.fullmatch(text):
        return match[1].upper()
    try:
        fields = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, list) or not all(isinstance(field, tuple) for field in fields):
        return None
    labels = {_label(value) for name, value in fields if name.strip().lower() == "verdict"}
    others = {_label(value) for name, value in fields} - {None}
    if len(labels) != 1 or None in labels or not others <= labels:
        return None
    label = next(filter(None, labels))
    try:
        return None if any(_contradicts(said, label) for said in _sayings("", fields)) else label
    except RecursionError:
        return None


def _label(value: Any) -> str | None:
    label = value.strip().upper() if isinstance(value, str) else None
    return label if label in VERDICTS else None


def _sayings(name: str, value: Any) -> Iterator[str]:
    """Yield the texts in a JSON value, each as what its name is: an object is a list of pairs."""
    if isinstance(value, str):
        yield f"{name} is {value}"
    elif isinstance(value, list):
        for part in value:
            yield from _sayings(*part) if isinstance(part, tuple) else _sayings(name, part)


def _contradicts(above: str, label: str) -> bool:
    """Return whether the text above a verdict says anything else, or may be a repetition of the request."""
    if _QUOTED_PROMPT.search(above) or (label != "C" and _NEITHER.search(above)):
        return True
    denied, above = _take(_NOT_PREFERRED, above)
    worse, above = _take(_WORSE, above)
    preferred, _ = _take(_PREFERRED, above)
    return label in denied | worse or (label == "C" and bool(worse)) or bool(preferred - {label})


def _take(patterns: list[re.Pattern[str]], text: str) -> tuple[set[str], str]:
    """Return the labels that the patterns find in a text, and the text without what was found."""
    labels = set[str]()
    for pattern in patterns:
        for match in pattern.finditer(text):
            labels.add(next(filter(None, match.groups())).upper())
        text = pattern.sub(" ", text)
    return labels, text
