"""The records that travel between jobs, as JSONL: one JSON object a line, UTF-8.

What is written is checked as strictly as what is read, so a file that one job wrote is one that others take.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdpo.errors import RecordError
from sdpo.text.prompts import Message

_encode = json.JSONEncoder(ensure_ascii=False).encode


@dataclass(frozen=True)
class Prompt:
    """A request without an answer: `prompt` is the user's text, `id` is unique in its file."""

    id: str
    prompt: str


@dataclass(frozen=True)
class Interaction:
    """An answer in a conversation, the history before it, and what the user wrote next.

    `prompt` may begin with a system message; after it user and assistant take turns, and the user has the
    first and the last. `turn_id` is the answer's place in the conversation, `id` is unique in its file.
    """

    id: str
    conversation_id: str
    turn_id: int
    model: str | None
    timestamp: str | None
    prompt: list[Message]
    completion: str
    user_response: str


@dataclass(frozen=True)
class Replay:
    """An answer that was given, and what the user wrote next; `follow_up` is empty where nothing came."""

    prompt: str
    completion: str
    follow_up: str


def read_prompts(path: Path, make_with: str) -> list[Prompt]:
    """Return the prompts of a JSONL file; `make_with` is the command that would write it.

    Raises RecordError with file, line and field for a missing, empty or malformed file.
    """
    rows = _read_records(path, make_with, _prompt_fault, "prompt")
    return [Prompt(row["id"], row["prompt"]) for row in rows]


def prompt_lines(prompts: Iterable[Prompt]) -> Iterator[str]:
    """Yield the JSON line of each prompt, newline included. Raises RecordError for one that would not be read."""
    for prompt in prompts:
        yield _encode(_checked(asdict(prompt), _prompt_fault)) + "\n"


def read_interactions(path: Path, make_with: str) -> Iterator[Interaction]:
    """Yield the interactions of a JSONL file, one at a time; `make_with` is the command that would write it.

    Raises RecordError with file, line and field where the file turns out to be missing, empty or malformed.
    """
    names = list(Interaction.__annotations__)
    for row in _read_records(path, make_with, _interaction_fault, "interaction"):
        yield Interaction(**{name: row.get(name) for name in names})


def read_replays(path: Path) -> list[Replay]:
    """Return what a JSONL file says was asked, answered and replied, such as a run's `samples.jsonl`.

    Other fields are let be. Raises RecordError with file, line and field for a missing, empty or malformed file.
    """
    replays = []
    for line, row in _read_rows(path, "another file"):
        for field in ("prompt", "completion", "follow_up"):
            if not isinstance(row.get(field), str) or not (field == "follow_up" or _is_text(row[field])):
                raise RecordError(f"{path}, line {line}: field {field} must be a text. Mend or remove that line.")
        replays.append(Replay(row["prompt"], row["completion"], row["follow_up"]))
    if not replays:
        raise RecordError(f"{path} holds nothing to replay. Name a run's samples.jsonl.")
    return replays


def interaction_lines(interactions: Iterable[Interaction]) -> Iterator[str]:
    """Yield the JSON line of each interaction with its lengths in characters, newline included.

    Raises RecordError for one that would not be read.
    """
    for interaction in interactions:
        row = _checked(vars(interaction), _interaction_fault)
        yield _encode(row | _lengths(row)) + "\n"


# What a row must be


def _prompt_fault(row: dict) -> str | None:
    """Return what is wrong with a row, None for nothing."""
    return _text_fault(row, "id") or _text_fault(row, "prompt")


def _interaction_fault(row: dict) -> str | None:
    """Return what is wrong with a row, None for nothing."""
    for field in ("id", "conversation_id", "completion", "user_response"):
        if fault := _text_fault(row, field):
            return fault
    for field in ("model", "timestamp"):
        if row.get(field) is not None and not _is_text(row[field]):
            return f"field {field} must be a text that is not empty, or null"
    turn = row.get("turn_id")
    if type(turn) is not int or turn < 0:
        return "field turn_id must be a whole number at least 0"
    if fault := _history_fault(row.get("prompt")):
        return fault
    for field, length in _lengths(row).items():
        if row.get(field, length) != length:
            return f"field {field} must be {length}, as the text is, or be left out"
    return None


def _history_fault(prompt: Any) -> str | None:
    if not isinstance(prompt, list) or not prompt:
        return "field prompt must be a list of messages that is not empty"
    for number, message in enumerate(prompt):
        if not isinstance(message, dict):
            return f"field prompt[{number}] must be an object with role and content"
        if fault := _text_fault(message, "content", f"prompt[{number}].content"):
            return fault
    turns = prompt[1:] if prompt[0].get("role") == "system" else prompt
    roles = [message.get("role") for message in turns]
    if len(roles) % 2 == 0 or any(role != ("user", "assistant")[place % 2] for place, role in enumerate(roles)):
        return "field prompt: its roles must be user and assistant in turn, user first and last, system only before"
    return None


def _lengths(row: dict) -> dict[str, int]:
    return {
        "prompt_length": sum(len(message["content"]) for message in row["prompt"]),
        "completion_length": len(row["completion"]),
        "user_response_length": len(row["user_response"]),
    }


def _text_fault(row: dict, field: str, name: str = "") -> str | None:
    return None if _is_text(row.get(field)) else f"field {name or field} must be a text that is not empty"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and not value.isspace() and is_encodable(value)


def is_encodable(text: str) -> bool:
    """Return whether a text can be written as UTF-8; JSON can spell half a character, which cannot."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


# Lines


def _checked(row: dict, fault_of: Callable[[dict], str | None]) -> dict:
    if fault := fault_of(row):
        raise RecordError(f"record {row['id']!r} cannot be written: {fault}.")
    return row


def _read_records(path: Path, make_with: str, fault_of: Callable[[dict], str | None], kind: str) -> Iterator[dict]:
    seen = set()
    for line, row in _read_rows(path, make_with):
        where = f"{path}, line {line}"
        if fault := fault_of(row):
            raise RecordError(f"{where}: {fault}. Write it with {make_with}.")
        if row["id"] in seen:
            raise RecordError(f"{where}: id {row['id']} is there twice. Ids must be unique.")
        seen.add(row["id"])
        yield row
    if not seen:
        raise RecordError(f"{path} holds no {kind}. Write it with {make_with}.")


def _read_rows(path: Path, make_with: str) -> Iterator[tuple[int, dict]]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise RecordError(
                        f"{path}, line {number} is not JSON ({error}). Mend or remove that line."
                    ) from None
                if not isinstance(row, dict):
                    raise RecordError(f"{path}, line {number} is not a JSON object. Write it with {make_with}.")
                yield number, row
    except FileNotFoundError:
        raise RecordError(f"{path} is not there. Make it with {make_with}, or name another file.") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}). Convert it.") from None
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}.") from None
