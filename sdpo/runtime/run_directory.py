"""The run directory: all records of a run, written atomically, so that a crash leaves either the old file or the new.

run.json          settings without secrets, the job's prompt texts, package versions, commit, seed, command
metrics.jsonl     one line per optimizer step
samples.jsonl     sampled interactions: prompt, completion, follow-up, signal per token
guard.jsonl       the guard's measurements and findings, one line per step
guard-start.json  answers of the starting model with their log-probabilities, the guard's reference
replies-N.jsonl   process N's reply cache of models behind an API, append-only
styles.json       the styles of STYLE_FILE, as they were when the run began
user-trial.json   the simulated user's reactions to answers of which it is known whether they fit the style
meter.json        the number of requests and their cost so far
checkpoint-N/     written by the trainer; complete once it contains `complete.json`, with the files' names and sizes
damaged-...       a checkpoint whose files are no longer as they were written: a resumed run went on from the one before
summary.json      results before and after training, and how the run ended
README.md         the model card
report.html       the report: one page about the run, written when it ends, however it ends
merged/           the model with its adapter merged in, if requested
"""

import fcntl
import json
import math
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from sdpo.errors import AtWork, RunError
from sdpo.runtime.checkpoint_files import COMPLETE, damage, sizes
from sdpo.runtime.commands import command
from sdpo.runtime.files import replace_file
from sdpo.runtime.provenance import provenance
from sdpo.runtime.resuming import STEP_SIZE, changed_settings, completed, not_applied, shown
from sdpo.settings import as_words

_LOCK, _TRIES, _PAUSE = ".lock", 5, 0.05  # seconds


class RunDirectory:
    """A directory that belongs to one run. `open` it before heavy work; only the main process writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[str] | None = None

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end. Raises RunError for a summary that is not JSON."""
        return bool((self.read_json("summary.json") or {}).get("finished"))

    def check_job(self, job: str) -> None:
        """Raise RunError for a run of another job. Runs of the first versions do not say whose they are."""
        recorded = (self.read_json("run.json") or {}).get("job", job)
        if recorded != job:
            raise RunError(
                f"the run in {self.path} is one of {recorded}, not of {job}. Give it to {command(recorded)}, or choose "
                "another RUN_ID or OUTPUT_DIR."
            )

    def check(self, settings: dict, resume: bool = True, new_run: str = "") -> str:
        """Return "new" or "continued". Raises RunError if the directory cannot be used. Writes nothing.

        `new_run` is the command of a new run, for the messages.
        """
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return "new"
        if not self.path.is_dir():
            raise RunError(f"{self.path} is a file. Choose another RUN_ID or OUTPUT_DIR.")
        started = self.read_json("run.json")
        if started is None:
            raise RunError(f"{self.path} contains files but no run.json. Choose another RUN_ID or OUTPUT_DIR.")
        if not resume:
            raise RunError(f"{self.path} already contains a run and RESUME=never. Choose another RUN_ID.")
        before = completed(started["settings"])
        changed = changed_settings(before, settings)
        another = f"For a new run: {new_run}" if new_run else "For a new run choose another RUN_ID."
        if not self.finished and not self.read_rows("metrics.jsonl"):
            another += f" (This one has made no step: without the folder {self.path} its RUN_ID is free again.)"
        if self.finished:
            evaluation = command("eval", run_dir=self.path, tiny=before.get("tiny"))
            evaluate = f" Evaluate it: {evaluation}." if self.last_checkpoint() else ""
            raise RunError(
                f"the run in {self.path} is finished.{not_applied(before, settings, changed)}{evaluate} {another}"
            )
        if changed:
            raise RunError(
                f"the run in {self.path} was started with {shown(before, changed)}, now it is "
                f"{shown(settings, changed)}. Give the same settings to resume it. {another}"
            )
        if settings.get("save_only_model") and (last := self.last_checkpoint()):
            if settings.get("adapter", "none") == "none":  # no run starts from an adapter
                another = f"To train on from these weights give {as_words({'model': last})[0]} and another RUN_ID."
            raise RunError(
                f"{last} has the weights alone (SAVE_ONLY_MODEL=1), so the run in {self.path} cannot be resumed. "
                f"{another}"
            )
        rows = [math.prod(values.get(name) or 1 for name in STEP_SIZE) for values in (before, settings)]
        if rows[0] != rows[1]:
            raise RunError(
                f"a step of the run in {self.path} has {rows[0]} rows (BS x GA x GPUS), now it would have {rows[1]}. "
                f"Choose BS and GA so that it is {rows[0]} again. {another}"
            )
        return "continued"

    def open(self, settings: dict, resume: bool = True, facts: Mapping[str, object] | None = None) -> str:
        """Create or reopen the directory, lock it, and return "new" or "continued".

        `facts` are further entries of a new run's run.json. Raises RunError as `check` does, AtWork if another
        process is using the directory.
        """
        state = self.check(settings, resume)
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock()
        if state == "new":
            self.write_json("run.json", {**(facts or {}), "settings": settings, **provenance()})
        return state

    def check_free(self) -> None:
        """Raise AtWork if another process has locked the directory. Writes nothing, and leaves it unlocked."""
        try:
            file = (self.path / _LOCK).open()
        except OSError:
            return  # nobody has opened it yet
        with file:
            self._hold(file)

    def lock(self) -> None:
        """Lock the directory while this object exists. Raises AtWork if another process has locked it."""
        self._lock = (self.path / _LOCK).open("w")
        for _ in range(_TRIES - 1):  # `check_free` of another process holds it for a moment
            try:
                return self._hold(self._lock)
            except AtWork:
                time.sleep(_PAUSE)
        self._hold(self._lock)

    def _hold(self, file: IO[str]) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AtWork(f"another process is using {self.path}. Wait for it, or choose another RUN_ID.") from None

    def unlock(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def checkpoints(self) -> dict[int, Path]:
        """Return step -> folder of the complete checkpoints, in ascending order."""
        return dict(sorted((_step_of(path.parent), path.parent) for path in self.path.glob(f"checkpoint-*/{COMPLETE}")))

    def write_json(self, name: str, content: dict) -> None:
        """Write a JSON file atomically."""
        self._replace(name, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file atomically."""
        self._replace(name, text)

    def read_json(self, name: str) -> dict | None:
        """Return the content of a JSON file, None if there is no such file. Raises RunError for invalid JSON."""
        try:
            return json.loads((self.path / name).read_text("utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunError(f"{self.path / name} is not JSON ({error}). Choose another RUN_ID.") from None

    def append(self, name: str, rows: list[dict]) -> None:
        """Append rows to a JSONL file and flush them to the operating system."""
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def write_rows(self, name: str, rows: list[dict]) -> None:
        """Write a JSONL file atomically."""
        self._replace(name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def read_rows(self, name: str) -> list[dict]:
        """Return the rows of a JSONL file, without a last line that a crash truncated.

        Raises RunError for any other line that is not JSON.
        """
        path = self.path / name
        lines = path.read_text("utf-8").split("\n") if path.exists() else []
        rows = []
        for number, line in enumerate(lines, start=1):
            try:
                rows += [json.loads(line)] if line else []
            except json.JSONDecodeError:
                if number < len(lines):
                    raise RunError(f"{path}, line {number} is not JSON. Remove that line.") from None
        return rows

    def drop_rows_after(self, name: str, step: int) -> None:
        """Remove the rows of steps after `step` from a JSONL file: a resumed run writes them again."""
        if (self.path / name).exists():
            self.write_rows(name, [row for row in self.read_rows(name) if row["step"] <= step])

    def mark_complete(self, step: int, processes: int = 1, interim: bool = False) -> None:
        """Mark checkpoint `step` as complete. Call it after its last file is written.

        An `interim` checkpoint is one between two of SAVE_STEPS, from which an interrupted run goes on.
        """
        name = f"checkpoint-{step}"
        complete = {"step": step, "processes": processes, "interim": interim, "files": sizes(self.path / name)}
        self.write_json(f"{name}/{COMPLETE}", complete)

    def interim_checkpoints(self) -> list[Path]:
        """Return the folders of the interim checkpoints, in ascending order."""
        return [
            path
            for path in self.checkpoints().values()
            if (self.read_json(f"{path.name}/{COMPLETE}") or {}).get("interim")
        ]

    def remove_old_interim_checkpoints(self) -> None:
        """Remove the interim checkpoints before the last checkpoint: the run then has those of an uninterrupted one."""
        last = self.last_checkpoint()
        for path in self.interim_checkpoints():
            if path != last:
                (path / COMPLETE).unlink()  # first: what a crash leaves of it is removed as incomplete
                shutil.rmtree(path)

    def last_checkpoint(self) -> Path | None:
        """Return the newest complete checkpoint, None if there is none."""
        return next(reversed(self.checkpoints().values()), None)

    def remove_incomplete_checkpoints(self) -> list[str]:
        """Remove incomplete checkpoints, which a crash leaves, and return their names in order."""
        incomplete = [path for path in self.path.glob("checkpoint-*") if not (path / COMPLETE).exists()]
        for path in incomplete:
            shutil.rmtree(path)
        return sorted(path.name for path in incomplete)

    def set_damaged_checkpoints_aside(self) -> dict[str, str]:
        """Rename the newest checkpoints until one has its files as they were written.

        Returns what is wrong with each, by its new name.
        """
        renamed: dict[str, str] = {}
        for folder in reversed(self.checkpoints().values()):
            if not (fault := damage(folder)):
                break
            target = folder.with_name(f"damaged-{folder.name}")
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)
            renamed[target.name] = fault
        return renamed

    def _replace(self, name: str, text: str) -> None:
        replace_file(self.path / name, text.encode())


def _step_of(path: Path) -> int:
    return int(path.name.rsplit("-", 1)[1])
