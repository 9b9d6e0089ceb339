"""Output that is there whole or not at all: files without a name, which they get once all of them are complete."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from sdpo.errors import RunError


def refuse_existing(paths: Sequence[Path], force: bool) -> None:
    """Raise RunError where one of the files is there and may not be replaced."""
    for path in paths:
        if path.is_dir():
            raise RunError(f"{path} is a folder. Choose another OUT_DIR.")
        if path.exists() and not force:
            raise RunError(f"{path} is there already. Give FORCE=1 to replace it, or another OUT_DIR.")


class Outputs:
    """The files of one run, in one folder. Used as a block: they appear by `publish`, or never.

    The first file is the one that others read: it appears last, so where it is, the rest is too.
    """

    def __init__(self, paths: Sequence[Path], force: bool) -> None:
        self._paths, self._force = list(paths), force
        self._files: dict[Path, _Unnamed] = {}

    def __enter__(self) -> "Outputs":
        for folder in {path.parent for path in self._paths}:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except FileExistsError:
                raise RunError(f"{folder} is a file. Choose another OUT_DIR.") from None
        try:
            for path in self._paths:
                self._files[path] = _Unnamed(path)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.forget()

    def __getitem__(self, path: Path) -> IO[bytes]:
        return self._files[path].file

    def publish(self) -> None:
        """Give the files their names. Raises RunError where a file has appeared that may not be replaced."""
        refuse_existing(self._paths, self._force)
        for file in self._files.values():
            file.settle()
        for file in self._files.values():
            file.name_beside()
        if len(self._paths) > 1:
            # An old first file beside new ones would be a mixture; for a moment there is none instead.
            self._paths[0].unlink(missing_ok=True)
        for path in reversed(self._paths):
            self._files[path].name_finally()


class _Unnamed:
    """A file that is gone when the process is, until it is given its name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.beside = path.with_name(f".{path.name}.{os.getpid()}")
        self._folder = os.open(path.parent, os.O_RDONLY)
        try:
            self._named, number = self._open()
        except BaseException:
            os.close(self._folder)
            raise
        self.file = os.fdopen(number, "wb")

    def _open(self) -> tuple[bool, int]:
        if hasattr(os, "O_TMPFILE") and os.path.isdir("/proc/self/fd"):
            with suppress(OSError):  # some file systems have no files without a name
                return False, os.open(self.path.parent, os.O_TMPFILE | os.O_RDWR, 0o666)
        return True, os.open(self.beside, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)

    def settle(self) -> None:
        """See to it that the content is on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def name_beside(self) -> None:
        if not self._named:
            # With `src_dir_fd` the link in /proc is followed; without, it would be linked itself.
            os.link(f"/proc/self/fd/{self.file.fileno()}", self.beside, src_dir_fd=self._folder)
            self._named = True

    def name_finally(self) -> None:
        self.beside.replace(self.path)
        self._named = False

    def forget(self) -> None:
        with suppress(OSError):  # what is still to be written does not matter any more, and may not fit
            self.file.close()
        os.close(self._folder)
        if self._named:
            self.beside.unlink(missing_ok=True)
