"""What a check is given, and how it says that it failed or could not run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"

Figures = dict[str, Any]


class CheckFailed(Exception):
    """What was checked does not hold; the message says what was expected and what was found. `figures` are kept."""

    def __init__(self, message: str, figures: Figures | None = None) -> None:
        super().__init__(message)
        self.figures = figures or {}


class NotRun(Exception):
    """The check cannot run here; the message says why."""


@dataclass(frozen=True)
class Place:
    """Where a check runs: on this torch device, cuda or cpu, with an empty folder for its files."""

    device: str
    folder: Path

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU. On a CPU a check uses small shapes."""
        return self.device == "cuda"


def require(holds: bool, message: str, figures: Figures | None = None) -> None:
    """Raise CheckFailed with this message unless `holds`."""
    if not holds:
        raise CheckFailed(message, figures)
