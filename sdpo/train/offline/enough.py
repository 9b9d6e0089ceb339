"""How many rows the files of an offline run hold, and whether they are enough for a step. Importing this is cheap."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdpo.errors import SettingError
from sdpo.text.records import read_interactions
from sdpo.text.split import is_held_out
from sdpo.train.offline.mixture import shares_of
from sdpo.users.satisfaction import reads_as_satisfied

if TYPE_CHECKING:
    from sdpo.settings import OfflineSettings


@dataclass(frozen=True)
class RowCount:
    """The interactions of a file, their conversations, and how many of the interactions are not held out.

    Of the latter `complaints` and `praise` count the follow-ups that are so by their words; None if those are not read.
    """

    path: Path
    interactions: int
    conversations: int
    training: int
    complaints: int | None = None
    praise: int | None = None


def count_rows(path: Path, make_with: str, holdout: float, read_words: bool = False) -> RowCount:
    """Return the counts of a file, each line of which is checked; with `read_words` those by words too.

    Raises RecordError as `read_interactions` does.
    """
    interactions = training = 0
    conversations = set[int]()
    satisfied = Counter[bool | None]()
    for row in read_interactions(path, make_with):
        interactions += 1
        conversations.add(hash(row.conversation_id))
        if not is_held_out(row.conversation_id, holdout):
            training += 1
            satisfied[reads_as_satisfied(row.user_response) if read_words else None] += 1
    by_words = (satisfied[False], satisfied[True]) if read_words else (None, None)
    return RowCount(path, interactions, len(conversations), training, *by_words)


def check_enough(settings: "OfflineSettings", count: int) -> None:
    """Raise SettingError if so many training rows are fewer than one step takes."""
    if count >= settings.step_rows:
        return
    advice = "Lower BS or GA, set HOLDOUT=0, or add data." if settings.holdout else "Lower BS or GA, or add data."
    raise SettingError(
        f"{count} rows to train on are fewer than the {settings.step_rows} that one step takes ({_product(settings)}). "
        f"{advice}"
    )


def describe(settings: "OfflineSettings", counts: Sequence[RowCount]) -> list[str]:
    """Return lines on the files' rows and on the steps they make; rows that are too long are still in them."""
    lines = [
        f"{count.path}: {count.interactions:,} interactions of {count.conversations:,} conversations"
        for count in counts
    ]
    # Files are mixed by their shares until the first of them is used up.
    shares = shares_of(settings)
    available = int(min(count.training / shares[count.path] for count in counts))
    rows = min(available, settings.train_n or available)
    about = "about " if len(counts) > 1 else ""
    kept = f", {sum(count.interactions - count.training for count in counts):,} held out" if settings.holdout else ""
    steps = settings.epoch_steps(rows)
    lines.append(
        f"{about}{rows:,} rows to train on{kept}; a step takes {settings.step_rows} ({_product(settings)}): "
        f"{steps:,} steps an epoch, {steps * settings.epochs:,} in EPOCHS={settings.epochs}"
        f"{settings.waiting(rows)}"
    )
    if settings.train_n and settings.train_n > available:
        lines.append(f"TRAIN_N={settings.train_n} is more than there are")
    if settings.learn_from == "complaints":
        lines.append(_complaints(counts))
    return [*lines, "the run drops rows that are too long for MAX_CONTEXT_TOKENS"]


def _complaints(counts: Sequence[RowCount]) -> str:
    """Return a line on the share of complaints, as far as it is known without a model."""
    total = sum(count.training for count in counts)
    complaints, praise = (sum(getattr(count, name) or 0 for count in counts) for name in ("complaints", "praise"))
    return (
        f"LEARN_FROM=complaints: by their words {complaints:,} of {total:,} follow-ups "
        f"({100 * complaints / total:.0f} %) are complaints and {praise:,} ({100 * praise / total:.0f} %) "
        "praise; which of them are learned from is known once the loaded model has read them"
    )


def _product(settings: "OfflineSettings") -> str:
    return f"BS={settings.bs} x GA={settings.ga} x GPUS={settings.world_size}"
