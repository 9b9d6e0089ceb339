"""The rows of an offline run: tokenized, truncated, mixed and split by conversation, with a summary line."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from datasets import Dataset, interleave_datasets
from transformers import PreTrainedTokenizerBase

from sdpo.errors import SettingError
from sdpo.text.split import is_held_out
from sdpo.train.offline.mixture import shares_of
from sdpo.train.offline.tokenized import tokenized
from sdpo.train.offline.truncation import TruncationLimits

if TYPE_CHECKING:
    from sdpo.settings import OfflineSettings


class Rows(NamedTuple):
    """The training rows, the held-out rows, file and id of interactions that are too long, and a summary line."""

    training: Dataset
    held_out: Dataset
    left_out: list[dict]
    summary: str


def read_rows(
    settings: "OfflineSettings",
    make_with: str,
    tokenizer: PreTrainedTokenizerBase,
    limits: TruncationLimits,
    folder: Path,
) -> Rows:
    """Return the run's rows; they are the same for the same settings.

    `make_with` is the command that writes the data file. `folder` is where tokenized rows are stored if the data's
    folder is not writable. Raises SettingError if a file has no rows to train on.
    """
    shares = shares_of(settings)
    files: list[Dataset] = []
    left_out: list[dict] = []
    untrainable, counts = 0, {"history": 0, "prompt": 0, "completion": 0}
    for path in shares:
        rows = tokenized(path, make_with, tokenizer, limits, folder)
        fits, cuts = rows["fits"], rows["cut"]
        left_out += [{"file": str(path), "id": name} for name, fit in zip(rows["id"], fits, strict=True) if not fit]
        counts["history"] += list(cuts).count("history")
        counts["prompt"] += list(cuts).count("prompt")
        counts["completion"] += sum(rows["completion_cut"])
        usable = [index for index, fit in enumerate(fits) if fit and _has_trainable_tokens(rows[index], settings)]
        files.append(rows.select(usable))
        untrainable += sum(fits) - len(usable)
    if any(len(rows) == 0 for rows in files):
        raise SettingError(
            f"no interaction of {list(shares)[[len(rows) for rows in files].index(0)]} fits into "
            f"MAX_CONTEXT_TOKENS={settings.max_context_tokens} and has tokens to train on. Raise it."
        )
    rows = files[0]
    if len(files) > 1:
        rows = interleave_datasets(
            files, list(shares.values()), seed=settings.seed, stopping_strategy="first_exhausted"
        )
    flags = [is_held_out(name, settings.holdout) for name in rows["conversation_id"]]
    training = rows.select([index for index, out in enumerate(flags) if not out][: settings.train_n])
    held_out = rows.select([index for index, out in enumerate(flags) if out])
    summary = (
        f"{len(training)} interactions to train on, {len(held_out)} held out; truncated to {limits.context} tokens: "
        f"history of {counts['history']}, prompt of {counts['prompt']}; to {limits.completion} tokens, or when they "
        f"were logged: completions of {counts['completion']}; dropped: {len(left_out)} too long, {untrainable} without "
        "tokens to train on"
    )
    return Rows(training, held_out, left_out, summary)


def with_lengths(rows: Dataset) -> Dataset:
    """Return the rows with a column `length`: the number of tokens of context and completion."""
    lengths = [len(first) + len(last) for first, last in zip(rows["context"], rows["completion"], strict=True)]
    return rows.add_column("length", lengths)


def _has_trainable_tokens(row: dict, settings: "OfflineSettings") -> bool:
    """Return whether the settings (MASK_TRUNCATED, IGNORE_FIRST_K) leave any token of the completion to train on."""
    masked = row["completion_cut"] and settings.mask_truncated
    return not masked and len(row["completion"]) > settings.ignore_first_k
