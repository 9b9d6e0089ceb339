"""Files that are written whole or not at all, and a disk that is full."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO


def replace_file(path: Path, content: bytes) -> None:
    """Write a file atomically: to a temporary file in its folder, which then replaces it."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, permissions: int = 0o666) -> Iterator[IO[bytes]]:
    """Yield a temporary file in the path's folder. It replaces the path at the end, and is removed after an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb", opener=partial(os.open, mode=permissions)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(path)  # the name that the user knows
        temporary.unlink(missing_ok=True)
        raise


def is_full(error: OSError) -> bool:
    """Return whether the error is that the disk, or what the user may have of it, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def disk_full(error: Exception, folder: Path) -> bool:
    """Return whether an error is due to a full disk, also one of the libraries that write checkpoints.

    These raise no OSError: safetensors names the cause in its message, torch only reports that writing failed, and
    leaves the disk full.
    """
    if isinstance(error, OSError):
        return is_full(error)
    if "No space left on device" in str(error):
        return True
    return "inline_container" in str(error) and shutil.disk_usage(folder).free < 2**20


def free_at(path: object) -> str:
    """Return, after a colon, a path that could not be written and the space that is free there; "" without a path."""
    if not isinstance(path, str):
        return ""
    there = next(folder for folder in (Path(path), *Path(path).absolute().parents) if folder.exists())
    return f": {path}, where {shutil.disk_usage(there).free / 1e6:,.1f} MB are free"
