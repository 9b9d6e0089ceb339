"""MIX: files whose interactions are mixed into those of TRAIN_JSONL, and their shares."""

from pathlib import Path

from sdpo.errors import SettingError


def mix_of(text: str | None) -> dict[Path, float]:
    """Return MIX as file -> share of the rows. Raises SettingError where it cannot be read."""
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
