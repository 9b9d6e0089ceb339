"""Simulated users of the tiny world without a model: the oracle reads the answer, a template writes the follow-up."""

from random import Random

from sdpo.tiny import language, oracle
from sdpo.users.simulator import FollowUp


class OracleUser:
    """Asks to change exactly the properties of the answer that violate its style, and says thanks if there are none."""

    def __init__(self, wanted: dict[str, bool], seed: int = 0) -> None:
        self.wanted, self.rng = wanted, Random(seed)
        self.round = 0

    def react(self, prompts: list[str], completions: list[str]) -> list[FollowUp]:
        """Return a follow-up for each completion."""
        return [FollowUp(self._follow_up(text)) for text in completions]

    def _follow_up(self, completion: str) -> str:
        wanted = oracle.react(completion, self.wanted).wanted
        return language.write_request(self.rng, wanted) if wanted else language.write_thanks(self.rng)


class UnrelatedUser:
    """Always writes about something unrelated to the answer."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = Random(seed)
        self.round = 0

    def react(self, prompts: list[str], completions: list[str]) -> list[FollowUp]:
        """Return an unrelated follow-up for each completion."""
        return [FollowUp(language.write_unrelated(self.rng)) for _ in completions]
