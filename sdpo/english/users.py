"""Users that need no model: a rule reads the answer, and the wordings are drawn from the room's."""

import hashlib
from collections.abc import Sequence
from random import Random

from sdpo.english.checkers import checker_of
from sdpo.english.styles import complaints, praise, unrelated
from sdpo.users.simulator import FollowUp


class _WordingUser:
    """Draws wordings by seed, round and exchange alone, as a run that is continued has to see the same again.

    `round` numbers the draws, `latest` holds the last follow-ups, as a simulated user has them.
    """

    def __init__(self, seed: int = 0, held_out: bool = False) -> None:
        self.seed, self.held_out = seed, held_out
        self.round = 0
        self.latest: list[FollowUp] = []

    def react(self, prompts: Sequence[str], completions: Sequence[str]) -> list[FollowUp]:
        """Return the follow-up to each exchange, and begin another round."""
        self.latest = [FollowUp(self._say(*exchange)) for exchange in zip(prompts, completions, strict=True)]
        self.round += 1
        return self.latest

    def _say(self, prompt: str, completion: str) -> str:
        key = repr((self.seed, self.round, prompt, completion)).encode("utf-8", "surrogatepass")
        rng = Random(int.from_bytes(hashlib.sha256(key).digest()[:8], "big"))
        return rng.choice(self._wordings(prompt, completion))

    def _wordings(self, prompt: str, completion: str) -> Sequence[str]:
        raise NotImplementedError


class RuleUser(_WordingUser):
    """Complains where an answer misses its style, and is content otherwise. `held_out` draws the test wordings."""

    def __init__(self, style: str, seed: int = 0, held_out: bool = False) -> None:
        super().__init__(seed, held_out)
        self.style, self.checker = style, checker_of(style)

    def _wordings(self, prompt: str, completion: str) -> Sequence[str]:
        fits = self.checker.fits(completion, prompt)
        return praise(self.held_out) if fits else complaints(self.style, self.held_out)


class UnrelatedUser(_WordingUser):
    """Always talks about something else."""

    def _wordings(self, prompt: str, completion: str) -> Sequence[str]:
        return unrelated(self.held_out)
