"""The first replies of a model are looked at: one of which hardly any can be used must not go on unnoticed.

Each such reply is left out or counts as a tie, which is right for a few. If most are, a run learns nothing or an
evaluation has no winner, at the price of all requests.
"""

from collections.abc import Sequence

from sdpo.errors import UnusableReplies, on_one_line
from sdpo.llm import has_thoughts

FIRST = 64  # replies that are looked at
UNUSABLE_AT_MOST = 0.5  # of them
ENOUGH = 4  # unusable ones, so that no single reply decides


class FirstReplies:
    """Counts the usable ones among a model's first replies.

    `what` names the replies, `advice` says what to do if they are unusable, `against_thoughts` if they are thoughts.
    """

    def __init__(self, what: str, advice: str, against_thoughts: str) -> None:
        self.what, self.advice, self.against_thoughts = what, advice, against_thoughts
        self._seen, self._unusable = 0, list[str]()

    def add(self, written: Sequence[str], usable: Sequence[bool]) -> None:
        """Count replies, as they were written. Raises UnusableReplies if too many of the first ones are unusable."""
        if self._seen >= FIRST:
            return
        self._seen += len(usable)
        self._unusable += [text for text, fine in zip(written, usable, strict=True) if not fine]
        if len(self._unusable) >= ENOUGH and len(self._unusable) > UNUSABLE_AT_MOST * self._seen:
            raise UnusableReplies(self._message())

    def _message(self) -> str:
        # The one that says most about the cause: thoughts, else any words.
        example = max(self._unusable, key=lambda text: (has_thoughts(text), bool(text.strip())))
        advice = self.against_thoughts if has_thoughts(example) else self.advice
        text = on_one_line(example, 200)
        shown = f"“{text}”" if text else "an empty reply"
        return (
            f"{len(self._unusable)} of the first {self._seen} {self.what} cannot be used, at most "
            f"{UNUSABLE_AT_MOST:.0%} may be. One of them: {shown}. {advice}"
        )
