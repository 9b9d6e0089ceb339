"""How many rows a run trains on and how long they are: from the settings, and from the data where it is there."""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

from sdpo.errors import one_line
from sdpo.settings import OfflineSettings, OnlineSettings
from sdpo.text.split import is_held_out

CHARACTERS = 4  # a token has about so many, of English with a vocabulary of 50,000 words or more
_SAMPLE = 500
_TEMPLATE = 40  # tokens of the words around a follow-up, and of the chat template
_ASSUMED_ROWS = 1000


@dataclass(frozen=True)
class Lengths:
    """Tokens of a row's prompt, of its answer, and of its follow-up with the words around it."""

    prompt: float
    completion: float
    follow_up: float


@dataclass(frozen=True)
class Rows:
    """The rows of a run: how many, the longest that there can be, the usual ones, and where this is from."""

    count: int
    longest: Lengths
    usual: Lengths
    notes: tuple[str, ...] = ()


def rows_of(settings: OnlineSettings | OfflineSettings) -> Rows:
    """Return the rows of a run. The notes say if the file of data does not exist or cannot be read."""
    return _online(settings) if isinstance(settings, OnlineSettings) else _offline(settings)


def _online(settings: OnlineSettings) -> Rows:
    longest = Lengths(settings.max_prompt_tokens, settings.max_completion_tokens, settings.user_max_tokens + _TEMPLATE)
    path = _train_file(settings)
    read = _read(path)
    note = f"answers at MAX_COMPLETION_TOKENS ({settings.max_completion_tokens}); shorter ones take less time"
    if isinstance(read, str):
        return Rows(settings.train_n, longest, longest, (f"{path} {read}: prompts at MAX_PROMPT_TOKENS, {note}",))
    prompt = min(read[1].prompt + _TEMPLATE, longest.prompt)
    return Rows(settings.train_n, longest, Lengths(prompt, longest.completion, longest.follow_up), (note,))


def _offline(settings: OfflineSettings) -> Rows:
    follow_up = min(128, settings.max_context_tokens // 4)
    # The context with the follow-up is what has to fit.
    longest = Lengths(settings.max_context_tokens - follow_up, settings.max_completion_tokens, follow_up)
    path = _train_file(settings)
    read = _read(path)
    if isinstance(read, str):
        count = settings.train_n or _ASSUMED_ROWS
        return Rows(count, longest, longest, (f"{path} {read}: time and disk for {count:,} rows at the limits",))
    there, usual = read
    if settings.holdout:
        there = _training_rows(path, settings.holdout)
    usual = Lengths(
        min(usual.prompt + _TEMPLATE, longest.prompt),
        min(usual.completion, longest.completion),
        min(usual.follow_up + _TEMPLATE, settings.max_context_tokens),
    )
    count = min(there, settings.train_n or there)
    notes = [f"lengths of the rows in {path}, at {CHARACTERS} characters a token; memory for rows at the limits"]
    if (settings.train_n or 0) > there:
        notes.append(
            f"TRAIN_N={settings.train_n}, but {path} has {there:,} rows: planned for these. For rows that are still to "
            "come, give TRAIN_JSONL the name of a file that is not there yet"
        )
    return Rows(count, longest, usual, tuple(notes))


def _training_rows(path: Path | None, holdout: float) -> int:
    """Return how many of a file's interactions are not held out; those that cannot be read count as trained on."""
    if path is None:
        return 0
    count = 0
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for line in filter(str.strip, file):
            try:
                count += not is_held_out(str(json.loads(line)["conversation_id"]), holdout)
            except (ValueError, KeyError, TypeError):
                count += 1  # the job itself says what is wrong with the file
    return count


def _train_file(settings: OnlineSettings | OfflineSettings) -> Path | None:
    if settings.data_path is not None:
        return settings.data_path / "train.jsonl"
    return settings.train_jsonl


def _read(path: Path | None) -> tuple[int, Lengths] | str:
    """Return the number of rows and the mean lengths in tokens of the first ones, or why there are none."""
    if path is None or not path.is_file():
        return "does not exist"
    sums, number, where = [0, 0, 0], 0, ""
    try:
        with path.open("rb") as lines:
            count = sum(1 for line in lines if line.strip())
        with path.open(encoding="utf-8-sig") as file:
            rows = ((position, line) for position, line in enumerate(file, start=1) if line.strip())
            for position, line in itertools.islice(rows, _SAMPLE):
                where = f"line {position}: "
                row = json.loads(line)
                prompt = row["prompt"]
                sums[0] += len(prompt) if isinstance(prompt, str) else sum(len(turn["content"]) for turn in prompt)
                sums[1] += len(row.get("completion", ""))
                sums[2] += len(row.get("user_response", ""))
                number += 1
    except KeyError as error:
        return f"cannot be read ({where}no {error.args[0]})"
    except (OSError, ValueError, TypeError) as error:
        return f"cannot be read ({where}{one_line(error)})"
    return (count, Lengths(*(total / number / CHARACTERS for total in sums))) if number else "has no rows"
