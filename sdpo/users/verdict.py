"""What a judge's reply says: a verdict in any form that cannot mean another one, or none."""

import json
import re
from typing import Any

from sdpo.text.prompts import VERDICTS

# A line that is a verdict, apart from marks that a model may put around it. A letter elsewhere is not a verdict.
_LINE = re.compile(r"[\s\"'*`#_>-]*(?:final\s+)?verdict[\s*_]*:[\s*_`]*([ABC])[\s\"'*`_.]*", re.IGNORECASE)
_FENCED = re.compile(r"(?:\A|(?<=\n))[ \t]*```[\w-]*[ \t]*\n?(?P<inside>(?:(?!```).)*)\n?[ \t]*```\s*\Z", re.DOTALL)
_OBJECT = re.compile(r"(?:\A|(?<=\n))\s*\{[^{}]*\}\s*\Z")

# What may not stand above a verdict unless it says the same: another verdict, or another answer that is preferred.
# A lower-case letter is a label only right behind "verdict": elsewhere it is the article.
_LABEL = r"[\"'*`(\[]*(?:(?:answer|option|response)\s+)?[\"'*`(\[]*\b((?-i:[ABC]))\b"
_PREFERRED = [
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"verdict\W*(?:(?:is|would be)\W+)?(?:(?:answer|option|response)\W+)?([ABC])\b",
        rf"(?:better|best|winner|choice|preferred)(?:\s+\w+)?\s*(?:is|:|=|would be)\s*{_LABEL}",
        rf"(?:choose|chose|pick|select|prefer|favou?r|go(?:ing)? with|vote for|lean(?:ing)? towards?)\s+{_LABEL}",
        rf"{_LABEL}[\"'*`)\]]*(?:\s+\w+){{0,3}}\s+(?:better|best|wins|preferable|preferred|superior)\b",
        rf"{_LABEL}[\"'*`)\]]*\s+(?:is|would be)\s+(?:my|the)\s+(?:choice|winner|verdict)",
    )
]
_NEITHER = re.compile(
    r"\bneither\b|\b(?:a|it's a|is a) tie\b|\bequally\b|\bno (?:clear )?(?:winner|preference)\b", re.IGNORECASE
)
_QUOTED_PROMPT = re.compile(r"^\W*Answer [AB]:\s*$", re.MULTILINE)  # its last line may be an answer's, not the judge's


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
    return labels.pop() if len(labels) == 1 and others <= labels else None


def _label(value: Any) -> str | None:
    label = value.strip().upper() if isinstance(value, str) else None
    return label if label in VERDICTS else None


def _contradicts(above: str, label: str) -> bool:
    """Return whether the text above a verdict says anything else, or may be a repetition of the request."""
    if _QUOTED_PROMPT.search(above) or (label != "C" and _NEITHER.search(above)):
        return True
    return any(match[1].upper() != label for pattern in _PREFERRED for match in pattern.finditer(above))
