"""How many rows the files of an offline run hold, and whether they are enough for a step. Importing this is cheap."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdpo.errors import SettingError
from sdpo.text.records import read_interactions
from sdpo.text.split import is_held_out
from sdpo.train.offline.mixture import shares_of

if TYPE_CHECKING:
    from sdpo.settings import OfflineSettings


@dataclass(frozen=True)
class RowCount:
    """The interactions of a file, their conversations, and how many of the interactions are not held out."""

    path: Path
    interactions: int
    conversations: int
    training: int


def count_rows(path: Path, make_with: str, holdout: float) -> RowCount:
    """Return the counts of a file, each line of which is checked. Raises RecordError as `read_interactions` does."""
    interactions = training = 0
    conversations = set[int]()
    for row in read_interactions(path, make_with):
        interactions += 1
        training += not is_held_out(row.conversation_id, holdout)
        conversations.add(hash(row.conversation_id))
    return RowCount(path, interactions, len(conversations), training)


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
    )
    if settings.train_n and settings.train_n > available:
        lines.append(f"TRAIN_N={settings.train_n} is more than there are")
    complaints = ", and learns from complaints alone (LEARN_FROM)" if settings.learn_from == "complaints" else ""
    return [*lines, f"the run drops rows that are too long for MAX_CONTEXT_TOKENS{complaints}"]


def _product(settings: "OfflineSettings") -> str:
    return f"BS={settings.bs} x GA={settings.ga} x GPUS={settings.world_size}"
