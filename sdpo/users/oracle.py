"""The interface of oracles, which measure exactly how well answers fit a style, in worlds where that is possible.

A job names its oracle (`Job.oracle`), so trainers and evaluation do not depend on a particular world.
"""

from collections.abc import Sequence
from typing import Any, Protocol


class Oracle(Protocol):
    """Measures answers and follow-ups for one style. The constructor raises SettingError for an unknown style."""

    def __init__(self, style: str) -> None: ...

    @staticmethod
    def reads(model: str) -> bool:
        """Return whether this model, a hub name or a folder, answers in the language that the oracle reads."""
        ...

    def summarize(self, prompts: Sequence[str], completions: Sequence[str]) -> dict[str, Any]:
        """Return statistics of the completions of the prompts.

        `adherence` (share that fits the style), `validity` (share that is well-formed), `mean_length` (in words),
        `axes` (share with each property that a style can ask for) and `answers` (their number).
        """
        ...

    def is_satisfied(self, follow_up: str) -> bool:
        """Return whether this follow-up means that the user is satisfied with the answer."""
        ...

    def verdict(self, first: str, second: str) -> str:
        """Return A or B for the completion that fits the style better, C if neither does."""
        ...
