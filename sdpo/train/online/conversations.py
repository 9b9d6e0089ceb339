"""Datasets as people have them, brought to the columns that the online trainer reads."""

from collections.abc import Iterable
from typing import Any, TypeAlias

from datasets import Dataset, IterableDataset

from sdpo.errors import RecordError
from sdpo.text.prompts import Message

RECORDED = ("completion", "follow_up")
ROLES = ("system", "user", "assistant")

Rows: TypeAlias = Dataset | IterableDataset


def conversations(rows: Rows | Iterable[dict], recorded: bool, name: str = "train_dataset") -> Rows:
    """Return the rows with the prompt as messages and, if they are `recorded` ones, completion and follow-up as texts.

    A prompt is a text, which is one message of the user, or messages of which the last is the user's. A list of rows
    will do too. Raises RecordError, which names the row, for a row that is none of these; for an IterableDataset only
    when that row is read.
    """
    dataset: Rows = rows if isinstance(rows, Dataset | IterableDataset) else Dataset.from_list(list(rows))
    known = dataset.column_names
    for column in ("prompt", *(RECORDED if recorded else ())):
        if known is not None and column not in known:
            needs = "without a user it needs prompt, completion and follow_up" if recorded else "it needs prompt"
            raise RecordError(f"{name} has no column {column}, only {', '.join(known) or 'none'}: {needs}.")

    def convert(row: dict, index: int) -> dict:
        where = f"{name}, row {index}"
        changed: dict[str, Any] = {"prompt": _messages(row["prompt"], where)}
        if recorded:
            changed["completion"] = _completion(row["completion"], where)
            changed["follow_up"] = _follow_up(row["follow_up"], where)
        return changed

    # What was recorded beside the prompts is of no use to a user who reads new answers, and would be replayed.
    surplus = [column for column in RECORDED if not recorded and column in (known or [])]
    return dataset.map(convert, with_indices=True, remove_columns=surplus)


def _messages(prompt: object, where: str) -> list[Message]:
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not prompt or not all(isinstance(message, dict) for message in prompt):
        raise RecordError(f"{where}: the prompt must be a text, or a list of messages.")
    for message in prompt:
        if message.get("role") not in ROLES or not isinstance(message.get("content"), str):
            raise RecordError(f"{where}: each message needs a role, {', '.join(ROLES)}, and a text as its content.")
    if prompt[-1]["role"] != "user" or not prompt[-1]["content"].strip():
        raise RecordError(f"{where}: the last message must be the user's, with a text: it is the one to answer.")
    return [{"role": message["role"], "content": message["content"]} for message in prompt]


def _completion(completion: object, where: str) -> str:
    """Return the text of an answer, which may be a list of one message as TRL has it."""
    if isinstance(completion, list) and len(completion) == 1 and isinstance(completion[0], dict):
        completion = completion[0].get("content")
    if not isinstance(completion, str) or not completion.strip():
        raise RecordError(f"{where}: the completion must be a text.")
    return completion


def _follow_up(follow_up: object, where: str) -> str:
    if follow_up is not None and not isinstance(follow_up, str):
        raise RecordError(f"{where}: the follow_up must be a text, or None if the user wrote nothing.")
    return (follow_up or "").strip()
