"""The report: one self-contained page about training runs, evaluations and nights of learning.

Importing this is cheap, and so is writing a page: no torch, no transformers.
"""

from collections.abc import Sequence
from pathlib import Path


def write_report(*folders: Path, path: Path | None = None) -> Path:
    """Write the report of one or more folders and return its path.

    A folder is that of a training run, of an evaluation, or of `make learn`; runs and evaluations inside it are shown
    too. The page is `path`, or without it report.html in the first folder. It is written whole or not at all. What a
    folder lacks, because the run goes on, was killed or lost a file, is named on the page.
    Raises RunError for a folder that has none of the files of a run.
    """
    from sdpo.report.folder import FILE, read_folder
    from sdpo.report.page import write

    return write(path or folders[0] / FILE, _unique([read_folder(Path(folder)) for folder in folders]))


def _unique(parts: Sequence) -> list:
    """Return the folders without those that another one already contains."""
    inside = {part.path for folder in parts for part in folder.inside}
    return [folder for folder in parts if folder.path not in inside] or list(parts)
