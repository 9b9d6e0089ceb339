"""The cases of the signal analysis: a prompt with an unrelated and a relevant follow-up to its answer."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdpo.errors import RecordError, nearest, one_line
from sdpo.text.prompts import Message

CASES_FILE = Path(__file__).with_name("cases.json")
TAGS = ("reinforce", "constrain")
_REQUIRED = ("id", "tag", "raw_prompt", "unrelated_followup", "feedback_followup")
_OPTIONAL = ("system", "completion")


@dataclass(frozen=True)
class Case:
    """One case. `system` is the system prompt. A given `completion` is scored as it is; otherwise one is sampled."""

    id: str
    tag: str
    raw_prompt: str
    unrelated_followup: str
    feedback_followup: str
    system: str = ""
    completion: str = ""

    @property
    def messages(self) -> list[Message]:
        """The prompt as chat messages, without hindsight."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.raw_prompt}]


def read_cases(path: Path = CASES_FILE) -> list[Case]:
    """Return the cases of a JSON file, which holds a list of objects.

    Raises RecordError that names the file, the case (by id, or by its number if it has none) and the field.
    """
    try:
        text = path.read_text("utf-8-sig")
        rows = json.loads(text) if text.strip() else []
    except OSError as error:
        raise RecordError(f"CASES_JSON={path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"CASES_JSON={path} is not valid UTF-8 JSON: {one_line(error)}.") from None
    if not isinstance(rows, list) or not rows:
        raise RecordError(f"CASES_JSON={path} must hold a non-empty JSON list of cases.")
    cases: dict[str, Case] = {}
    for number, row in enumerate(rows, start=1):
        name = row.get("id") if isinstance(row, dict) else None
        where = f"CASES_JSON={path}, case {name!r}" if name else f"CASES_JSON={path}, case number {number}"
        if fault := _fault(row):
            raise RecordError(f"{where}: {fault}.")
        case = Case(**row)
        if case.id in cases:
            raise RecordError(f"{where}: this id is used twice. Ids must be unique.")
        cases[case.id] = case
    return list(cases.values())


def _fault(row: Any) -> str | None:
    """Return what is wrong with a case, or None if it is valid."""
    if not isinstance(row, dict):
        return "it must be an object with " + ", ".join(_REQUIRED)
    for field in _REQUIRED:
        if not _is_text(row.get(field)):
            return f"field {field} must be a non-empty string"
    for field in row:
        if field not in _REQUIRED + _OPTIONAL:
            return f"field {field} is unknown.{nearest(field, _REQUIRED + _OPTIONAL)} Remove or correct it"
        if not _is_text(row[field]) and not (field in _OPTIONAL and row[field] == ""):
            return f"field {field} must be a string"
    return None if row["tag"] in TAGS else f"field tag must be {' or '.join(TAGS)}, not {row['tag']!r}"


def _is_text(value: Any) -> bool:
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate, which a JSON escape can spell
        return False
    return True
