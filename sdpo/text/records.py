"""The records that jobs exchange, as JSONL: one JSON object per line, UTF-8.

Records are checked as strictly when written as when read, so a file that one job wrote is accepted by the others.
"""

import json
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sdpo.errors import RecordError, command, instead_of, nearest_first
from sdpo.text.prompts import Message

_encode = json.JSONEncoder(ensure_ascii=False).encode
_USUAL = {"rating": None, "finished": True}  # fields that a row may lack or have as null, and what that means
_OF_CONVERSATIONS = {"messages", "conversation", "conversations", "mapping", "chat_messages", "chat"}


@dataclass(frozen=True)
class Prompt:
    """A request without an answer: `prompt` is the user's text, `id` is unique in its file."""

    id: str
    prompt: str


@dataclass(frozen=True)
class Interaction:
    """An answer in a conversation, with the messages before it and the user's follow-up.

    `prompt` may begin with a system message; then user and assistant alternate, and the first and last messages are the
    user's. `user_response` is the follow-up. `turn_id` is the index of the answer in the conversation. `id` is unique
    in its file. `rating` is what the user rated the answer with, if that is known: 1 for thumbs up, -1 for thumbs down.
    `finished` is False for an answer that was truncated or stopped, which has no end token.
    """

    id: str
    conversation_id: str
    turn_id: int
    model: str | None
    timestamp: str | None
    prompt: list[Message]
    completion: str
    user_response: str
    rating: float | None = None
    finished: bool = True


@dataclass(frozen=True)
class Replay:
    """A recorded answer and the user's follow-up; `follow_up` is empty if there was none.

    `satisfied` is whether the user was content with the answer; None if that is not known. `finished` is False for an
    answer that was truncated, which has no end token.
    """

    prompt: str
    completion: str
    follow_up: str
    satisfied: bool | None = None
    finished: bool = True


def read_prompts(path: Path, make_with: str) -> list[Prompt]:
    """Return the prompts of a JSONL file; `make_with` is the command that writes it, for error messages, "" if there
    is none.

    Raises RecordError with file, line and field for a missing, empty or malformed file.
    """
    rows = _read_records(path, make_with, _prompt_fault, "prompt")
    return [Prompt(row["id"], row["prompt"]) for row in rows]


def prompt_lines(prompts: Iterable[Prompt]) -> Iterator[str]:
    """Yield the JSON line of each prompt, with newline. Raises RecordError for a prompt that could not be read back."""
    for prompt in prompts:
        yield _encode(_checked(asdict(prompt), _prompt_fault)) + "\n"


def read_interactions(path: Path, make_with: str) -> Iterator[Interaction]:
    """Yield the interactions of a JSONL file, one at a time; `make_with` is the command that writes it.

    Raises RecordError with file, line and field, while iterating, for a missing, empty or malformed file.
    """
    names = list(Interaction.__annotations__)
    for row in _read_records(path, make_with, _interaction_fault, "interaction"):
        values = {name: value for name, value in row.items() if value is not None}
        fields: dict[str, Any] = {name: values.get(name, _USUAL.get(name)) for name in names}
        yield Interaction(**fields)


def read_replays(path: Path) -> list[Replay]:
    """Return the prompts, completions and follow-ups of a JSONL file such as a run's `samples.jsonl`.

    Other fields are ignored. Raises RecordError with file, line and field for a missing, empty or malformed file.
    """
    replays = []
    for line, row in _read_rows(path, "another file"):
        for field in ("prompt", "completion", "follow_up"):
            if not isinstance(row.get(field), str) or not (field == "follow_up" or _is_text(row[field])):
                raise RecordError(f"{path}, line {line}: field {field} must be a string. Fix or remove that line.")
        if not isinstance(row.get("satisfied"), bool | None):
            raise RecordError(f"{path}, line {line}: field satisfied must be true, false or null. Fix that line.")
        finished = row.get("finished", True)
        if not isinstance(finished, bool):
            raise RecordError(f"{path}, line {line}: field finished must be true or false. Fix that line.")
        replays.append(Replay(row["prompt"], row["completion"], row["follow_up"], row.get("satisfied"), finished))
    if not replays:
        raise RecordError(f"{path} contains nothing to replay. Give the samples.jsonl of a run.")
    return replays


def interaction_lines(interactions: Iterable[Interaction]) -> Iterator[str]:
    """Yield the JSON line of each interaction, with its lengths in characters and with newline.

    Raises RecordError for an interaction that could not be read back.
    """
    for interaction in interactions:
        row = _checked(vars(interaction), _interaction_fault)
        written = {name: value for name, value in row.items() if name not in _USUAL or value != _USUAL[name]}
        yield _encode(written | _lengths(row)) + "\n"


# Checking rows


@dataclass(frozen=True)
class _Fault:
    """What is wrong with a row, and the job that takes such rows, with what it is for, if there is one."""

    text: str
    job: str = ""
    setting: str = "INPUT"
    advice: str = "Prepare it"


def _prompt_fault(row: dict) -> _Fault | None:
    """Return what is wrong with the row of a prompt, or None."""
    if "user_response" in row:
        return _Fault("this is an interaction, not a prompt", "train-offline", "TRAIN_JSONL", "Train on such rows with")
    if _OF_CONVERSATIONS & row.keys() and "prompt" not in row:
        text = "this is a conversation, not a prompt with its id"
        return _Fault(text, "prep-logs", advice="Prepare conversations for offline training with")
    fault = _text_fault(row, "id") or _text_fault(row, "prompt")
    return _Fault(fault) if fault else None


def _interaction_fault(row: dict) -> _Fault | None:
    """Return what is wrong with the row of an interaction, or None."""
    if _OF_CONVERSATIONS & row.keys() and "user_response" not in row:
        return _Fault("this is a conversation, not yet an interaction", "prep-logs")
    if isinstance(row.get("completion"), str) and isinstance(row.get("follow_up"), str):
        return _Fault("this is a sample of an online run, not yet an interaction", "prep-logs")
    if isinstance(row.get("prompt"), str) and "user_response" not in row:
        without = f"this is a prompt, not an interaction, as {command('prep-logs')} INPUT=... writes them"
        return _Fault(without, "train-online-helpsteer", "TRAIN_JSONL", "Train on prompts with")
    text = _field_fault(row)
    return _Fault(text) if text else None


def _field_fault(row: dict) -> str | None:
    for field in ("id", "conversation_id", "completion", "user_response"):
        if fault := _text_fault(row, field):
            return fault
    for field in ("model", "timestamp"):
        if row.get(field) is not None and not _is_text(row[field]):
            return f"field {field} must be a non-empty string or null"
    if type(row.get("rating")) not in (int, float, type(None)):
        return "field rating must be a number or null"
    if not isinstance(row.get("finished"), bool | None):
        return "field finished must be true or false, or be omitted"
    turn = row.get("turn_id")
    if type(turn) is not int or turn < 0:
        return "field turn_id must be an integer of at least 0"
    if fault := _history_fault(row.get("prompt")):
        return fault
    for field, length in _lengths(row).items():
        if row.get(field, length) != length:
            return f"field {field} must be {length}, the length of the text, or be omitted"
    return None


def _history_fault(prompt: Any) -> str | None:
    if not isinstance(prompt, list) or not prompt:
        return "field prompt must be a non-empty list of messages"
    for number, message in enumerate(prompt):
        if not isinstance(message, dict):
            return f"field prompt[{number}] must be an object with role and content"
        if fault := _text_fault(message, "content", f"prompt[{number}].content"):
            return fault
    turns = prompt[1:] if prompt[0].get("role") == "system" else prompt
    roles = [message.get("role") for message in turns]
    if len(roles) % 2 == 0 or any(role != ("user", "assistant")[index % 2] for index, role in enumerate(roles)):
        return (
            "field prompt: its roles must alternate between user and assistant, with user first and last, after an "
            "optional system message"
        )
    return None


def _lengths(row: dict) -> dict[str, int]:
    return {
        "prompt_length": sum(len(message["content"]) for message in row["prompt"]),
        "completion_length": len(row["completion"]),
        "user_response_length": len(row["user_response"]),
    }


def _text_fault(row: dict, field: str, name: str = "") -> str | None:
    return None if _is_text(row.get(field)) else f"field {name or field} must be a non-empty string"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and not value.isspace() and is_encodable(value)


def is_encodable(text: str) -> bool:
    """Return whether a text can be encoded as UTF-8. JSON can contain an unpaired surrogate, which cannot."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


# Reading and writing lines


def _checked(row: dict, fault_of: Callable[[dict], _Fault | None]) -> dict:
    if fault := fault_of(row):
        raise RecordError(f"record {row['id']!r} cannot be written: {fault.text}.")
    return row


def _read_records(path: Path, make_with: str, fault_of: Callable[[dict], _Fault | None], kind: str) -> Iterator[dict]:
    seen = set()
    for line, row in _read_rows(path, make_with):
        where = f"{path}, line {line}"
        if fault := fault_of(row):
            if fault.job:
                takes = command(f"{fault.job} {fault.setting}={shlex.quote(str(path))}")
                raise RecordError(f"{where}: {fault.text}. {fault.advice}: {takes}")
            raise RecordError(f"{where}: {fault.text}. {_remedy(make_with)}.")
        if row["id"] in seen:
            raise RecordError(f"{where}: id {row['id']} occurs twice. Ids must be unique.")
        seen.add(row["id"])
        yield row
    if not seen:
        raise RecordError(f"{path} contains no {kind}. {_remedy(make_with, 'Give another file')}.")


def _remedy(make_with: str, otherwise: str = "Fix or remove that line") -> str:
    return f"Write it with {make_with}" if make_with else otherwise


def _read_rows(path: Path, make_with: str) -> Iterator[tuple[int, dict]]:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line.rstrip("\n"))
                except (ValueError, RecursionError) as error:
                    # JSON's own message counts lines too, of this line alone.
                    column = f", column {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
                    cause = error.msg if isinstance(error, json.JSONDecodeError) else error
                    raise RecordError(
                        f"{path}, line {number}{column} is not JSON ({cause}). Fix or remove that line."
                    ) from None
                if not isinstance(row, dict):
                    raise RecordError(f"{path}, line {number} is not a JSON object. {_remedy(make_with)}.")
                yield number, row
    except FileNotFoundError:
        if make_with:
            message = f"{path} does not exist. Make it with {make_with}, or give another file."
            raise RecordError(message, missing=path) from None
        message = f"{path} does not exist.{instead_of(path) or ' Give another file.'}"
        raise RecordError(message, missing=path) from None
    except IsADirectoryError:
        if (path / "samples.jsonl").is_file() and (path / "run.json").is_file():
            prepare = command(f"prep-logs INPUT={shlex.quote(str(path / 'samples.jsonl'))}")
            raise RecordError(f"{path} is the directory of a run. Prepare its interactions with: {prepare}") from None
        files = nearest_first(".jsonl", (entry.name for entry in path.glob("*.jsonl")))
        inside = f", such as {path / files[0]}" if files else ""
        raise RecordError(f"{path} is a folder. Give a file{inside}.") from None
    except UnicodeDecodeError as error:
        with path.open("rb") as file:
            if file.read(2) == b"\x1f\x8b":
                raise RecordError(f"{path} is compressed. Unpack it with gunzip, and give the file.") from None
        raise RecordError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}). Convert it to UTF-8.") from None
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}.") from None
