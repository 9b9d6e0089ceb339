"""Whether a checkpoint's files are as they were written: their names and sizes are in its `complete.json`.

A full disk, a copy that was cut off or a hand that deletes leaves a checkpoint that cannot be resumed, or that resumes
to other weights without a word.
"""

import json
import zipfile
import zlib
from fnmatch import fnmatch
from pathlib import Path

from sdpo.settings.weights import safetensors_size

COMPLETE = "complete.json"
# The files that an evaluation reads. Without the others, such as the optimizer's, a checkpoint cannot be resumed.
WEIGHTS = ("model*.safetensors*", "pytorch_model*.bin*", "adapter_*", "config.json")
# What every checkpoint has, for those that were written before the names and sizes were.
_PARTS = {
    "the trainer's state": ("trainer_state.json",),
    "the weights": ("model*.safetensors", "adapter_model.*", "pytorch_model*"),
    "the optimizer's state": ("optimizer*",),
    "the schedule's state": ("scheduler.pt",),
    "the random state": ("rng_state*.pth",),
}


def sizes(folder: Path) -> dict[str, int]:
    """Return the size in bytes of each file in a checkpoint that a run or an evaluation reads, by its path inside."""
    unread = (COMPLETE, "README.md")
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in unread)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def damage(folder: Path, patterns: tuple[str, ...] = ("*",)) -> str:
    """Return what is wrong with the files of a complete checkpoint that match a pattern, empty if nothing is."""
    try:
        complete = json.loads((folder / COMPLETE).read_text("utf-8"))
    except (OSError, ValueError):
        return f"{COMPLETE} cannot be read"
    written = complete.get("files")
    if written is None:
        return _damage_without_sizes(folder) if patterns == ("*",) else ""
    found = sizes(folder)
    for name, size in written.items():
        if not any(fnmatch(name, pattern) for pattern in patterns):
            continue
        if name not in found:
            return f"{name} is missing"
        if found[name] != size:
            return f"{name} has {found[name]:,} bytes of {size:,}"
        if patterns == ("*",) and not _is_whole(folder / name):
            return f"{name} is damaged"
    return ""


def _damage_without_sizes(folder: Path) -> str:
    for part, patterns in _PARTS.items():
        paths = [path for pattern in patterns for path in folder.glob(pattern)]
        if not paths:
            return f"{part} is missing ({patterns[0]})"
        if broken := next((path for path in paths if path.is_file() and not _is_whole(path)), None):
            return f"{broken.name} is cut off"
    return ""


def _is_whole(path: Path) -> bool:
    """Return whether a file of a known kind has its end; True for other files, unless they are empty."""
    try:
        if path.suffix in (".pt", ".pth", ".bin"):
            with zipfile.ZipFile(path) as archive:  # as torch writes them, with a checksum of each part
                return archive.testzip() is None
        if path.suffix == ".json":
            json.loads(path.read_text("utf-8"))
        elif path.suffix == ".safetensors":
            return path.stat().st_size == safetensors_size(path)
    except (OSError, ValueError, KeyError, OverflowError, MemoryError, zipfile.BadZipFile, zlib.error, EOFError):
        return False
    return path.stat().st_size > 0
