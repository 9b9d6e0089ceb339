"""Pairs of answers to everyday prompts, written and labelled by hand, to try a judge on; kept as data."""

import json
from functools import cache

from sdpo.english import LABELLED_FILE
from sdpo.text.prompts import PERSONAS
from sdpo.users.labelled import LabelledPair


@cache
def labelled_pairs() -> tuple[LabelledPair, ...]:
    """Return the pairs in the order of the file; the persona of each is the shipped one of its style."""
    rows = [json.loads(line) for line in LABELLED_FILE.read_text("utf-8").splitlines()]
    return tuple(LabelledPair(persona=PERSONAS[row["style"]], **row) for row in rows)
