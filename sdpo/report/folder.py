"""A folder of results as the report reads it: what is there, what is missing, what cannot be read.

A run may have been killed at any moment, so nothing here trusts a file: a truncated or malformed line is counted.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdpo.errors import RunError

TRAINING, EVALUATION, LEARNING, OTHER = "training run", "evaluation", "night of learning", "run"
FILE = "report.html"
LEARN_FILE = "learn.jsonl"
# By kind: the files that a complete folder has, with what the page lacks without them.
EXPECTED = {
    TRAINING: {
        "run.json": "the settings, versions and command",
        "metrics.jsonl": "the curves",
        "samples.jsonl": "the samples",
        "summary.json": "the results",
    },
    EVALUATION: {
        "eval.json": "the table and the settings",
        "release.json": "the verdict",
    },
    LEARNING: {},
    OTHER: {},
}
# Levels of subfolders in which runs and evaluations are looked for.
_DEPTH = 2
_MOST_INSIDE = 24
_NO_RESULTS = (".", "checkpoint-", "damaged-", "wandb", "earlier")


@dataclass
class Folder:
    """One folder, its kind, and the runs and evaluations inside it. `notes` says what could not be read."""

    path: Path
    kind: str
    inside: list["Folder"] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name by which the page calls the folder."""
        return "/".join(self.path.parts[-2:]) if self.kind == EVALUATION else self.path.name

    @property
    def missing(self) -> list[str]:
        """What a complete folder of this kind would have, in sentences."""
        files = () if self.has("forgetting.json") else EXPECTED[self.kind].items()
        return [f"{name} is missing: {what} cannot be shown" for name, what in files if not self.has(name)]

    def has(self, name: str) -> bool:
        """Return whether the folder has a file of this name."""
        return (self.path / name).is_file()

    def json(self, name: str) -> dict[str, Any]:
        """Return the object in a JSON file; empty, with a note unless the file is missing, if there is none."""
        try:
            content = json.loads((self.path / name).read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            self.note(f"{name} cannot be read ({type(error).__name__})")
            return {}
        if not isinstance(content, dict):
            self.note(f"{name} holds no object")
            return {}
        return content

    def rows(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the objects of a JSONL file one by one; lines that are none are counted in a note."""
        bad = 0
        try:
            with (self.path / name).open("rb") as file:
                for line in file:
                    row = _object(line)
                    if row is None:
                        bad += bool(line.strip())
                    else:
                        yield row
        except FileNotFoundError:
            return
        except OSError as error:
            self.note(f"{name} cannot be read ({type(error).__name__})")
        if bad:
            self.note(f"{bad} line(s) of {name} cannot be read and are left out")

    def spread_rows(self, name: str, places: int, each: int) -> list[list[dict[str, Any]]]:
        """Return up to `each` consecutive rows from each of `places` places spread evenly over a JSONL file.

        Only these places are read, so a large file costs no more than a small one. Rows of one place have the same
        `step` where rows have one.
        """
        try:
            size = (self.path / name).stat().st_size
            with (self.path / name).open("rb") as file:
                groups = [_rows_at(file, index * size // max(places - 1, 1), size, each) for index in range(places)]
        except OSError:
            return []
        found: dict[Any, list[dict[str, Any]]] = {}
        for rows in groups:
            if rows:
                found.setdefault(json.dumps(rows[0].get("step", rows[0]), sort_keys=True), rows)
        return list(found.values())

    def note(self, text: str) -> None:
        """Add a sentence about what could not be read, once."""
        if text not in self.notes:
            self.notes.append(text)


def read_folder(path: Path) -> Folder:
    """Return the folder with the runs and evaluations inside it. Raises RunError if it has none of their files."""
    path = path.resolve()
    folder = Folder(path, _kind(path) or OTHER)
    if path.is_dir():
        every = list(_inside(path, _DEPTH))
        folder.inside = _newest(path, every)
        if left := len(every) - len(folder.inside):
            folder.note(f"{left} older runs and evaluations in it are left out: give those that you want as RUN_DIR")
    if _kind(path) is None and not folder.inside:
        raise RunError(
            f"{path} has no run.json, metrics.jsonl, eval.json, release.json or {LEARN_FILE}. Give the folder of a "
            "training run, an evaluation or make learn as RUN_DIR."
        )
    return folder


def _kind(path: Path) -> str | None:
    """Return the kind of a folder, None if it has none of the files of a run."""
    has = {name for name in _MARKS if (path / name).is_file()}
    if LEARN_FILE in has:
        return LEARNING
    if has & {"metrics.jsonl", "samples.jsonl"}:
        return TRAINING
    if has & {"eval.json", "release.json", "eval.csv", "forgetting.json", "pairs.html"}:
        return EVALUATION
    if "run.json" not in has:
        return None
    try:
        written = json.loads((path / "run.json").read_bytes())
        job = str(written.get("job") or (written.get("command") or [""])[0])
    except (OSError, ValueError, AttributeError, LookupError, TypeError, RecursionError):
        return TRAINING
    return OTHER if job and not job.startswith("train") else TRAINING


_MARKS = (
    LEARN_FILE, "metrics.jsonl", "samples.jsonl", "eval.json", "release.json", "eval.csv", "forgetting.json",
    "pairs.html", "run.json",
)  # fmt: skip


def _inside(path: Path, depth: int) -> Iterator[Folder]:
    """Yield the folders of runs and evaluations in a folder, in the order of their work: a run, then its evaluation."""
    try:
        items = [item for item in path.iterdir() if item.is_dir() and not item.is_symlink()]
    except OSError:
        return
    found = [(item, _kind(item)) for item in items if not item.name.startswith(_NO_RESULTS)]
    for item, kind in sorted(found, key=lambda one: (one[1] == EVALUATION, one[1] == TRAINING, one[0].name)):
        if kind:
            yield Folder(item, kind)
        if depth > 1:
            yield from _inside(item, depth - 1)


def _newest(path: Path, every: list[Folder]) -> list[Folder]:
    """Return the newest _MOST_INSIDE folders inside a folder, in their order; a run stays with what is in it."""
    groups: dict[str, list[Folder]] = {}
    for one in every:
        groups.setdefault(one.path.relative_to(path).parts[0], []).append(one)
    kept: list[Path] = []
    for group in sorted(groups.values(), key=lambda group: max(map(_changed, group)), reverse=True):
        if kept and len(kept) + len(group) > _MOST_INSIDE:
            break
        kept += [one.path for one in group[:_MOST_INSIDE]]
    return [one for one in every if one.path in kept]


def _changed(folder: Folder) -> float:
    """Return when the results of a folder were last written."""
    return max((os.stat(file).st_mtime for name in _MARKS if (file := folder.path / name).is_file()), default=0.0)


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _rows_at(file: Any, offset: int, size: int, each: int) -> list[dict[str, Any]]:
    """Return up to `each` rows of one step from the first complete line after an offset; at the end the last ones."""
    if offset >= size:
        return _last_rows(file, size, each)
    file.seek(offset)
    if offset:
        file.readline()  # the rest of a line
    rows: list[dict[str, Any]] = []
    previous: Any = None
    for line in file:
        row = _object(line)
        if row is None:
            continue
        if offset and previous is None and row.get("step") is not None:
            previous = row["step"]  # the line may be in the middle of its step: begin with the next step
            continue
        if offset and not rows and row.get("step") == previous is not None:
            continue
        if rows and row.get("step") != rows[0].get("step"):
            break
        rows.append(row)
        if len(rows) == each:
            break
    return rows


def _last_rows(file: Any, size: int, each: int) -> list[dict[str, Any]]:
    """Return the last rows of the file that have the same step."""
    length = 1 << 16
    while True:
        file.seek(max(0, size - length))
        lines = file.read().split(b"\n")[1 if length < size else 0 :]
        rows = [row for row in map(_object, lines) if row is not None]
        same = [row for row in rows if row.get("step") == rows[-1].get("step")] if rows else []
        if length >= size or len(same) < len(rows) or length > 1 << 26:
            return same[:each]
        length *= 4


# Values of files that may hold anything


def number(value: Any) -> float | None:
    """Return a value as a finite number, None if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a value that is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def listing(value: Any) -> list[Any]:
    """Return a value that is a list, else an empty one."""
    return value if isinstance(value, list) else []


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """Return the objects of a list."""
    return [item for item in listing(value) if isinstance(item, dict)]
