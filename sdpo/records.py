"""The records that travel between jobs, as JSONL: one JSON object a line, UTF-8."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from sdpo.errors import RecordError


@dataclass(frozen=True)
class Prompt:
    """A request without an answer: `prompt` is the user's text, `id` is unique in its file."""

    id: str
    prompt: str


def read_prompts(path: Path, make_with: str) -> list[Prompt]:
    """Return the prompts of a JSONL file; `make_with` is the command that would write it.

    Raises RecordError with file, line and field for a missing, empty or malformed file.
    """
    prompts, seen = [], set()
    for line, row in _read_rows(path, make_with):
        where = f"{path}, line {line}"
        for field in ("id", "prompt"):
            if not isinstance(row.get(field), str) or not row[field].strip():
                raise RecordError(
                    f"{where}: field {field} must be a text that is not empty. Write it with {make_with}."
                )
        if row["id"] in seen:
            raise RecordError(f"{where}: id {row['id']} is there twice. Ids must be unique.")
        seen.add(row["id"])
        prompts.append(Prompt(row["id"], row["prompt"]))
    if not prompts:
        raise RecordError(f"{path} holds no prompt. Write it with {make_with}.")
    return prompts


def prompt_lines(prompts: Iterable[Prompt]) -> Iterator[str]:
    """Yield the JSON line of each prompt, newline included."""
    for prompt in prompts:
        yield json.dumps(asdict(prompt), ensure_ascii=False) + "\n"


def _read_rows(path: Path, make_with: str) -> Iterator[tuple[int, dict]]:
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (json.JSONDecodeError, RecursionError) as error:
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
