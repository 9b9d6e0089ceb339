"""The versions of a registry: weights with what they were trained on, what was decided about them, and when.

A version is a folder `versions/vNNNN` with `version.json` and the weights, in `adapter/` or, for a whole model, in
`model/`. It appears under its name only once all of its files are on the disk.
"""

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sdpo.errors import KEEP_EXIT_CODE, RunError, SettingError, nearest, one_line
from sdpo.evaluate.fingerprints import EvaluatedModel, NothingKnown, base_of, fingerprint, folder_fingerprint
from sdpo.runtime.commands import on_registry
from sdpo.runtime.files import replace_file

FILE, LOCK = "version.json", ".lock"
KEEP = "keep"  # the verdict of an evaluation that found nothing to release
_PAUSE, _LONG = 0.2, 1800.0  # seconds: a version that goes live may have to be loaded first
# What a checkpoint holds for its run alone.
_OF_THE_RUN = ["optimizer*", "scheduler.pt", "rng_state*", "trainer_state.json", "training_args.bin", "complete.json"]
_OF_THE_RUN += ["teacher*", "README.md"]


class KeptBack(SettingError):
    """A version, or a checkpoint that would become one, has no verdict that lets it go live."""

    exit_code = KEEP_EXIT_CODE


@dataclass(frozen=True)
class Version:
    """What a version's `version.json` says.

    `weights` is the fingerprint of weights and base model, `files` that of the version's own files. `data` has the ids
    of the conversations it learned from, and the hashes of their persons. `verdict` is the release of its evaluation.
    `state` is what became of it: candidate, kept (by its verdict not to go live), live, canary, former, or rejected
    (taken back).
    """

    name: str
    kind: str
    base: str
    weights: str
    files: str
    parent: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    run: str | None = None
    checkpoint: int | None = None
    verdict: dict[str, Any] = field(default_factory=dict)
    created_at: str = ""
    state: str = "candidate"

    @property
    def kept(self) -> bool:
        """Whether the verdict was to keep the model that was there."""
        return self.verdict.get("verdict", KEEP) == KEEP

    def folder(self, registry: Path) -> Path:
        """Return the folder with the version's weights."""
        return registry / "versions" / self.name / self.kind


@contextmanager
def locked(registry: Path, wait: float = 30.0) -> Iterator[None]:
    """Create the registry's folder if needed, and hold its lock. Raises RunError if another process has it for long."""
    try:
        (registry / "versions").mkdir(parents=True, exist_ok=True)
        file = (registry / LOCK).open("w")
    except OSError as error:
        raise RunError(f"{registry} cannot be written: {error.strerror}. Choose another REGISTRY.") from None
    with file:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    text = f"another process is changing the registry {registry}. Wait for it, then try again."
                    raise RunError(text) from None
                time.sleep(_PAUSE)
        yield


def add(registry: Path, source: Path, base: str, run: Path | None = None, **facts: Any) -> Version:
    """Copy the weights in `source`, an adapter on `base` or a whole model, and return the new version.

    `facts` are further fields of the version. If the registry has a version of this run and checkpoint already, with
    these files, that one is returned, with this verdict unless it is empty. Raises RunError if the lock is held. Whole
    models are hard links where the disk allows it.
    """
    with locked(registry, _LONG):
        kind = "model" if base_of(str(source)) is None else "adapter"
        name = f"v{max((number_of(one.name) for one in versions(registry)), default=0) + 1:04d}"
        temporary = registry / "versions" / f".new-{os.getpid()}"
        for left in (registry / "versions").glob(".new-*"):  # of a process that was killed
            shutil.rmtree(left)
        _copy(source, temporary / kind, link=kind == "model")
        if kind == "adapter":
            _name_base(temporary / kind / "adapter_config.json", base)
        files = folder_fingerprint(temporary / kind, NothingKnown())
        for version in versions(registry):
            came_from = (str(run.resolve()) if run else None, facts.get("checkpoint"), files)
            # A run that was removed and trained again has the same name and steps, and other weights.
            if run is not None and (version.run, version.checkpoint, version.files) == came_from:
                shutil.rmtree(temporary)
                return _with_verdict(registry, version, facts.get("verdict"))
        base = str(Path(base).resolve()) if Path(base).is_dir() else base
        model = EvaluatedModel(name, str(temporary / kind), base if kind == "adapter" else None)
        version = Version(
            name=name,
            kind=kind,
            base=base,
            weights=fingerprint(model, NothingKnown()),
            files=files,
            run=None if run is None else str(run.resolve()),
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            **facts,
        )
        version = replace(version, state="kept" if version.kept else "candidate")
        _write(temporary / FILE, version)
        _sync_folder(temporary)
        temporary.rename(registry / "versions" / name)
        _sync_folder(registry / "versions")
    return version


def versions(registry: Path) -> list[Version]:
    """Return all versions in order of their numbers. Raises RunError for a version that cannot be read."""
    folders = sorted(path for path in registry.glob("versions/v*") if re.fullmatch(r"v[0-9]{4,}", path.name))
    return [read(registry, path.name) for path in sorted(folders, key=lambda path: number_of(path.name))]


def number_of(name: str) -> int:
    """Return the number of a version by its name: a newer one has a higher number."""
    return int(name[1:])


def read(registry: Path, name: str) -> Version:
    """Return a version. Raises SettingError if the registry has none of this name, RunError if it cannot be read."""
    path = registry / "versions" / name / FILE
    try:
        return Version(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        names = [folder.name for folder in registry.glob("versions/v*")]
        hint = nearest(name, names)
        where = f"{on_registry(registry, 'versions')} lists them."
        raise SettingError(f"{registry} has no version {name}.{hint} {where}") from None
    except (OSError, ValueError, TypeError) as error:
        raise RunError(f"{path} cannot be read: {one_line(error)}. Remove that version's folder.") from None


def check_files(registry: Path, version: Version) -> None:
    """Raise RunError if the version's weights are no longer as they were added."""
    folder = version.folder(registry)
    if folder_fingerprint(folder, NothingKnown()) != version.files:
        raise RunError(f"{version.name}: {folder} no longer has the weights that were added. Choose another version.")


def set_state(registry: Path, name: str, state: str) -> None:
    """Write what became of a version."""
    version = read(registry, name)
    if version.state != state:
        _write(registry / "versions" / name / FILE, Version(**{**asdict(version), "state": state}))


def _with_verdict(registry: Path, version: Version, verdict: dict[str, Any] | None) -> Version:
    """Return the version with this verdict, written; as it is if there is none or it has that one."""
    if not verdict or verdict == version.verdict:
        return version
    version = replace(version, verdict=verdict)
    if version.state in ("candidate", "kept"):
        version = replace(version, state="kept" if version.kept else "candidate")
    _write(registry / "versions" / version.name / FILE, version)
    return version


def _write(path: Path, version: Version) -> None:
    replace_file(path, (json.dumps(asdict(version), indent=2, ensure_ascii=False) + "\n").encode())


def _copy(source: Path, target: Path, link: bool) -> None:
    """Copy the files of a checkpoint that make its model, and write them through to the disk."""
    target.mkdir(parents=True)
    left_out = {path.name for pattern in _OF_THE_RUN for path in source.glob(pattern)}
    for path in sorted(source.iterdir()):
        if not path.is_file() or path.name in left_out:
            continue
        try:
            if not link:
                raise OSError
            os.link(path.resolve(), target / path.name)
        except OSError:  # another disk, or one without links
            shutil.copyfile(path, target / path.name)
        _sync(target / path.name)
    _sync_folder(target)


def _name_base(path: Path, base: str) -> None:
    """Let an adapter name its base by the whole path: a server may run in another folder."""
    if Path(base).is_dir():
        config = json.loads(path.read_text("utf-8")) | {"base_model_name_or_path": str(Path(base).resolve())}
        replace_file(path, (json.dumps(config, indent=2) + "\n").encode())


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
