"""Answers in many shapes to everyday prompts, to try a simulated user on; written for this and kept as data."""

import json
from functools import cache

from sdpo.english import PROBES_FILE

_LANGUAGES = ("spanish", "chinese")


@cache
def probes(style: str = "") -> tuple[tuple[str, str], ...]:
    """Return pairs of a prompt and an answer: for each style of this room some answers fit it and some do not.

    Those in another language are only for the style of that name: other users are tried on answers in English.
    """
    rows = json.loads(PROBES_FILE.read_text("utf-8"))
    translated = [(row["prompt"], row[style]) for row in rows if style in _LANGUAGES]
    return tuple([*((row["prompt"], answer) for row in rows for answer in row["answers"]), *translated])
