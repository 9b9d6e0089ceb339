"""The interactions files of an offline run: TRAIN_JSONL, those that MIX adds with their shares, and VAL_JSONL."""

from pathlib import Path
from typing import TYPE_CHECKING

from sdpo.errors import SettingError

if TYPE_CHECKING:
    from sdpo.settings import OfflineSettings


def train_file(settings: "OfflineSettings") -> Path:
    """Return TRAIN_JSONL. Raises SettingError if it is not set."""
    if settings.train_jsonl is None:
        raise SettingError("TRAIN_JSONL is not set. Name an interactions file, such as prep-logs writes.")
    return settings.train_jsonl


def validation_file(settings: "OfflineSettings") -> Path:
    """Return VAL_JSONL, which EVAL_N needs. Raises SettingError if it is not set."""
    if settings.val_jsonl is None:
        raise SettingError("EVAL_N needs prompts to answer. Name a file of interactions in VAL_JSONL.")
    return settings.val_jsonl


def shares_of(settings: "OfflineSettings") -> dict[Path, float]:
    """Return the share of the rows that each file has: TRAIN_JSONL first, then those of MIX. Raises SettingError."""
    mix = mix_of(settings.mix)
    return {train_file(settings): 1 - sum(mix.values()), **mix}


def mix_of(text: str | None) -> dict[Path, float]:
    """Return MIX as a mapping from file to share of the rows. Raises SettingError if it cannot be parsed."""
    mix: dict[Path, float] = {}
    for part in (text or "").split():
        name, _, share = part.rpartition("=")
        try:
            mix[Path(name).expanduser()] = float(share)
        except ValueError:
            name = ""
        if not name or not 0 < mix[Path(name).expanduser()] < 1:
            raise SettingError(f"MIX: {part!r} must be a file and its share, such as logs/a.jsonl=0.3.")
    if sum(mix.values()) >= 1:
        raise SettingError(f"MIX={text} leaves no share for TRAIN_JSONL. The shares must add up to less than 1.")
    return mix
