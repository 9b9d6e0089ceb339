"""Simulated users that need no model: a rule reads the answer, and the follow-up is drawn from fixed wordings."""

import hashlib
from collections.abc import Sequence
from random import Random

from sdpo.users.simulator import FollowUp


class RuleUser:
    """Draws each follow-up by seed, round and exchange alone, so that a resumed run gets the same follow-ups.

    `round` numbers the calls and `latest` holds the last follow-ups, as with SimulatedUser. A subclass implements
    `_follow_up`.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.round = 0
        self.latest: list[FollowUp] = []

    def react(self, prompts: Sequence[str], completions: Sequence[str]) -> list[FollowUp]:
        """Return a follow-up to each completion, and begin the next round."""
        exchanges = zip(prompts, completions, strict=True)
        self.latest = [self._follow_up(self._random(*exchange), *exchange) for exchange in exchanges]
        self.round += 1
        return self.latest

    def _follow_up(self, random: Random, prompt: str, completion: str) -> FollowUp:
        """Return the follow-up; all randomness comes from `random`."""
        raise NotImplementedError

    def _random(self, prompt: str, completion: str) -> Random:
        key = repr((self.seed, self.round, prompt, completion)).encode("utf-8", "surrogatepass")
        return Random(int.from_bytes(hashlib.sha256(key).digest()[:8], "big"))
