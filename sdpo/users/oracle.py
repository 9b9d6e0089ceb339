"""The interface of oracles: programs that measure exactly how well answers fit a style, and play its user.

A job names its oracles (`Job.oracles`), so trainers and evaluation do not depend on a particular world.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sdpo.users.rule_user import RuleUser
from sdpo.users.styles import OwnStyle


class Oracle(Protocol):
    """Measures answers and follow-ups for one style. The constructor raises SettingError for an unknown style."""

    # Whether `is_satisfied` reads the follow-ups of any user; if not, only those of its own `user`.
    reads_any_user: bool
    # Prompts whose answers should stay as they are, whatever style is learned, in the language of the model.
    general_prompts: tuple[str, ...]
    # Others like them, for REHEARSAL.
    rehearsal_prompts: tuple[str, ...]
    # Kind -> prompts whose answers have a style, on which an evaluation also measures how far a model has moved.
    open_prompts: Mapping[str, tuple[str, ...]]

    def __init__(self, style: str, own: OwnStyle | None = None) -> None: ...

    @staticmethod
    def speaks(model: str) -> bool:
        """Return whether the model's language is that of this oracle's prompts."""
        ...

    @staticmethod
    def reads(model: str, style: str, own: OwnStyle | None) -> bool:
        """Return whether the oracle can measure this model's answers for a style.

        `model` is a hub name or a folder; `own` is the style as a STYLE_FILE has it, None if it has not.
        """
        ...

    def user(self, seed: int) -> RuleUser:
        """Return a simulated user of this style that needs no model."""
        ...

    def summarize(self, prompts: Sequence[str], completions: Sequence[str]) -> dict[str, Any]:
        """Return statistics of the completions of the prompts.

        `adherence` (share that fits the style), `validity` (share that is well-formed), `mean_length` (in words),
        `axes` (share with each property that a style can ask for) and `answers` (their number).
        """
        ...

    def fits(self, completion: str, prompt: str = "") -> bool:
        """Return whether a completion of the prompt fits the style."""
        ...

    def is_satisfied(self, follow_up: str) -> bool:
        """Return whether this follow-up means that the user is satisfied with the answer."""
        ...

    def probes(self, seed: int) -> Sequence[tuple[str, str]]:
        """Return pairs of a prompt and an answer to try a user on: many fit the style, and many do not."""
        ...

    def verdict(self, first: str, second: str, prompt: str = "") -> str:
        """Return A or B for the completion of the prompt that fits the style better, C if neither does."""
        ...
