"""Users that need no model: a checker reads the answer, and the wordings are this room's."""

from random import Random

from sdpo.english.checkers import checker_of
from sdpo.english.styles import complaints, praise, unrelated
from sdpo.users.rule_user import RuleUser
from sdpo.users.simulator import FollowUp
from sdpo.users.styles import OwnStyle


class StyleUser(RuleUser):
    """Complains about an answer that does not fit the style, and praises the others.

    With `held_out` it uses the wordings that training never draws.
    """

    def __init__(self, style: str, seed: int = 0, held_out: bool = False, own: OwnStyle | None = None) -> None:
        super().__init__(seed)
        self.style, self.own, self.checker, self.held_out = style, own, checker_of(style, own), held_out

    def _follow_up(self, random: Random, prompt: str, completion: str) -> FollowUp:
        fits = self.checker.fits(completion, prompt)
        wordings = praise(self.held_out, self.own) if fits else complaints(self.style, self.held_out, self.own)
        return FollowUp(random.choice(wordings), satisfied=fits)


class UnrelatedUser(RuleUser):
    """Always writes about another topic."""

    def __init__(self, seed: int = 0, held_out: bool = False) -> None:
        super().__init__(seed)
        self.held_out = held_out

    def _follow_up(self, random: Random, prompt: str, completion: str) -> FollowUp:
        return FollowUp(random.choice(unrelated(self.held_out)))
