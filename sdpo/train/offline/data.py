"""The rows of an offline run: read, fitted, mixed, split by conversation, and a word on what became of them."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from datasets import Dataset, interleave_datasets
from transformers import PreTrainedTokenizerBase

from sdpo.errors import SettingError
from sdpo.train.offline.mixture import mix_of
from sdpo.train.offline.tokenized import tokenized
from sdpo.train.offline.truncation import TruncationLimits

if TYPE_CHECKING:
    from sdpo.settings import OfflineSettings


class Rows(NamedTuple):
    """What is trained on, what is held out, and the ids of interactions that cannot fit, by file."""

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
    """Return the run's rows, the same for the same settings; `folder` takes what cannot lie beside the data.

    Raises SettingError where nothing is left to train on.
    """
    mix = mix_of(settings.mix)
    shares = {settings.train_jsonl: 1 - sum(mix.values()), **mix}
    files, left_out, nothing, counts = [], [], 0, {"history": 0, "prompt": 0, "completion": 0}
    for path in shares:
        rows = tokenized(path, make_with, tokenizer, limits, folder)
        fits, cuts = rows["fits"], rows["cut"]
        left_out += [
            {"file": str(path), "id": name} for name, truncate in zip(rows["id"], fits, strict=True) if not truncate
        ]
        counts["history"] += list(cuts).count("history")
        counts["prompt"] += list(cuts).count("prompt")
        counts["completion"] += sum(rows["completion_cut"])
        files.append(
            rows.select(
                [
                    place
                    for place, truncate in enumerate(fits)
                    if truncate and _can_be_learned_from(rows[place], settings)
                ]
            )
        )
        nothing += sum(fits) - len(files[-1])
    if any(len(rows) == 0 for rows in files):
        raise SettingError(
            f"no interaction of {list(shares)[[len(rows) for rows in files].index(0)]} fits into "
            f"MAX_CONTEXT_TOKENS={settings.max_context_tokens} and has something to learn from. Raise it."
        )
    rows = files[0]
    if len(files) > 1:
        rows = interleave_datasets(
            files, list(shares.values()), seed=settings.seed, stopping_strategy="first_exhausted"
        )
    held = [_is_held_out(name, settings.holdout) for name in rows["conversation_id"]]
    places = [place for place, out in enumerate(held) if not out][: settings.train_n]
    training, held_out = rows.select(places), rows.select([place for place, out in enumerate(held) if out])
    summary = (
        f"{len(training)} interactions to train on, {len(held_out)} held out; cut to {limits.context} tokens: the "
        f"history of {counts['history']}, the prompt of {counts['prompt']}; to {limits.completion}: the completion of "
        f"{counts['completion']}; {len(left_out)} cannot fit, {nothing} have nothing to learn from"
    )
    return Rows(training, held_out, left_out, summary)


def with_lengths(rows: Dataset) -> Dataset:
    """Return the rows with a column `length`: the tokens of context and completion, what a forward costs."""
    lengths = [len(first) + len(last) for first, last in zip(rows["context"], rows["completion"], strict=True)]
    return rows.add_column("length", lengths)


def _can_be_learned_from(row: dict, settings: "OfflineSettings") -> bool:
    """Return whether the settings leave anything of the completion to learn from."""
    whole = not (row["completion_cut"] and settings.mask_truncated)
    return whole and len(row["completion"]) > settings.ignore_first_k


def _is_held_out(conversation: str, share: float) -> bool:
    """Return whether a conversation is held out: by its name alone, so that more data moves none of them."""
    digest = hashlib.sha256(conversation.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < share
