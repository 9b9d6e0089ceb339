"""Output files that appear complete or not at all: they get their names once all of them are written."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from sdpo.errors import RunError


def refuse_existing(paths: Sequence[Path], force: bool) -> None:
    """Raise RunError if one of the paths is a folder, or a file that exists and may not be replaced."""
    for path in paths:
        if path.is_dir():
            raise RunError(f"{path} is a folder. Choose another OUT_DIR.")
        if path.exists() and not force:
            raise RunError(f"{path} already exists. Give FORCE=1 to replace it, or another OUT_DIR.")


class Outputs:
    """Context manager for the output files of one run, all in one folder. They appear on `publish`, or never.

    The first file is the one that other jobs read. It appears last, so if it exists, the others do too.
    """

    def __init__(self, paths: Sequence[Path], force: bool) -> None:
        self._paths, self._force = list(paths), force
        self._files: dict[Path, _PendingFile] = {}

    def __enter__(self) -> "Outputs":
        for folder in {path.parent for path in self._paths}:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except FileExistsError:
                raise RunError(f"{folder} is a file. Choose another OUT_DIR.") from None
        try:
            for path in self._paths:
                self._files[path] = _PendingFile(path)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.discard()

    @property
    def names(self) -> list[str]:
        """The names of the files."""
        return [path.name for path in self._paths]

    def __getitem__(self, path: Path) -> IO[bytes]:
        return self._files[path].file

    def publish(self) -> None:
        """Give the files their names. Raises RunError if a file has appeared since that may not be replaced."""
        refuse_existing(self._paths, self._force)
        for file in self._files.values():
            file.sync()
        for file in self._files.values():
            file.link_temporary_name()
        if len(self._paths) > 1:
            # An old first file beside new other files would be inconsistent; for a moment there is none instead.
            self._paths[0].unlink(missing_ok=True)
        for path in reversed(self._paths):
            self._files[path].rename_to_final()


class _PendingFile:
    """An open file without its final name, anonymous (O_TMPFILE) if possible: then a killed process leaves nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}")
        self.temporary.unlink(missing_ok=True)  # of a process that was killed: in containers the numbers recur
        self._folder = os.open(path.parent, os.O_RDONLY)
        try:
            self._has_temporary_name, descriptor = self._open()
        except BaseException:
            os.close(self._folder)
            raise
        self.file = os.fdopen(descriptor, "wb")

    def _open(self) -> tuple[bool, int]:
        """Return whether the file has its temporary name, and its file descriptor."""
        if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
            with suppress(OSError):  # some file systems do not support anonymous files
                return False, os.open(self.path.parent, os.O_TMPFILE | os.O_RDWR, 0o666)
        return True, os.open(self.temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)

    def sync(self) -> None:
        """Flush the content to disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def link_temporary_name(self) -> None:
        if not self._has_temporary_name:
            # With `src_dir_fd` the symbolic link in /proc is followed; without it, the link itself would be linked.
            os.link(f"/proc/self/fd/{self.file.fileno()}", self.temporary, src_dir_fd=self._folder)
            self._has_temporary_name = True

    def rename_to_final(self) -> None:
        self.temporary.replace(self.path)
        self._has_temporary_name = False

    def discard(self) -> None:
        with suppress(OSError):  # buffered data no longer matters, and may not fit on the disk
            self.file.close()
        os.close(self._folder)
        if self._has_temporary_name:
            self.temporary.unlink(missing_ok=True)
