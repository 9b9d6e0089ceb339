"""Users of the tiny world that need no model: the oracle reads the answer and picks the words."""

from random import Random

from sdpo.tiny import language, oracle
from sdpo.users.simulator import FollowUp


class OracleUser:
    """Complains of exactly what goes against its taste, and says thanks otherwise."""

    def __init__(self, wanted: dict[str, bool], seed: int = 0) -> None:
        self.wanted, self.rng = wanted, Random(seed)

    def react(self, prompts: list[str], completions: list[str]) -> list[FollowUp]:
        """Return a follow-up for each completion."""
        return [FollowUp(self._say(text)) for text in completions]

    def _say(self, completion: str) -> str:
        meant = oracle.react(completion, self.wanted)
        return language.write_request(self.rng, meant.wanted) if meant.wanted else language.write_thanks(self.rng)


class UnrelatedUser:
    """Always talks about something else."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = Random(seed)

    def react(self, prompts: list[str], completions: list[str]) -> list[FollowUp]:
        """Return an unrelated follow-up for each completion."""
        return [FollowUp(language.write_unrelated(self.rng)) for _ in completions]
