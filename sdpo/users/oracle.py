"""What can read exactly how far answers fit a style, in worlds where that can be known.

A job names its oracle (`Job.oracle`), so that trainers and evaluation know no particular world.
"""

from collections.abc import Sequence
from typing import Any, Protocol


class Oracle(Protocol):
    """Reads answers and follow-ups by one style. Raises SettingError when made for a style that it cannot read."""

    def __init__(self, style: str) -> None: ...

    @staticmethod
    def reads(model: str) -> bool:
        """Return whether the answers of this model, a hub name or a folder, are in the oracle's language."""
        ...

    def summarize(self, prompts: Sequence[str], completions: Sequence[str]) -> dict[str, Any]:
        """Return what the completions of the prompts are like as a whole.

        `adherence` (share that fits the style), `validity` (share that is well-formed), `mean_length` in words,
        `axes` (share of each property that a style can ask for) and `answers` (how many there are).
        """
        ...

    def is_satisfied(self, follow_up: str) -> bool:
        """Return whether a user who writes this is content with the answer."""
        ...

    def verdict(self, first: str, second: str) -> str:
        """Return A or B for the completion that fits the style better, C where neither does."""
        ...
