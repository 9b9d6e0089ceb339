"""The tiny world as jobs see it: the oracle of one style (see `sdpo.users.oracle.Oracle`) and its user."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

from sdpo.tiny import MODEL_DIR, language, oracle
from sdpo.users.rule_user import RuleUser
from sdpo.users.simulator import FollowUp
from sdpo.users.styles import OwnStyle

_STYLES = [language.Style(*values) for values in itertools.product((False, True), repeat=len(language.AXES))]
_PROBES_PER_STYLE = 10  # a style that wants two axes has a quarter of all answers that fit


class TinyOracle:
    """Reads the answers of the shipped model exactly. Raises SettingError for a style that the language has not."""

    reads_any_user = True
    rehearsal_prompts: tuple[str, ...] = ()
    general_prompts: tuple[str, ...] = ()  # all that this world's language says has a style
    open_prompts: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    def __init__(self, style: str, own: OwnStyle | None = None) -> None:
        self.wanted = oracle.wants_of(style)

    @staticmethod
    def speaks(model: str) -> bool:
        """Return whether the model is the shipped one."""
        return Path(model).resolve() == MODEL_DIR.resolve()

    @staticmethod
    def reads(model: str, style: str, own: OwnStyle | None) -> bool:
        """Return whether the model is the shipped one; the constructor says which styles there are.

        A style of a STYLE_FILE with a persona of its own is none of this world: it is another reader's, or nobody's.
        """
        known = own is None or own.persona == oracle.tiny_personas().get(style, ("", {}))[0]
        return known and TinyOracle.speaks(model)

    def user(self, seed: int) -> RuleUser:
        """Return a simulated user who complains about exactly what does not fit the style."""
        return TinyUser(self.wanted, seed)

    def summarize(self, prompts: Sequence[str], completions: Sequence[str]) -> dict[str, Any]:
        """Return the statistics of the completions of these posts."""
        return oracle.summarize(prompts, completions, self.wanted)

    def fits(self, completion: str, prompt: str = "") -> bool:
        """Return whether a completion fits the style."""
        return not oracle.violated(oracle.read_answer(completion).style, self.wanted)

    def is_satisfied(self, follow_up: str) -> bool:
        """Return whether a follow-up is thanks."""
        return oracle.is_satisfied(follow_up)

    def probes(self, seed: int) -> Sequence[tuple[str, str]]:
        """Return answers of the language in all its styles, with their posts."""
        random = Random(seed)
        posts = [language.sample_post(random) for _ in range(_PROBES_PER_STYLE * len(_STYLES))]
        styles = _STYLES * _PROBES_PER_STYLE
        return [
            (post.text, language.write_answer(random, post, style)) for post, style in zip(posts, styles, strict=True)
        ]

    def verdict(self, first: str, second: str, prompt: str = "") -> str:
        """Return A or B for the completion that fits the style better, C if neither does."""
        return oracle.verdict(first, second, self.wanted)


class TinyUser(RuleUser):
    """Complains about exactly what does not fit, and thanks otherwise."""

    def __init__(self, wanted: dict[str, bool], seed: int = 0) -> None:
        super().__init__(seed)
        self.wanted = wanted

    def _follow_up(self, random: Random, prompt: str, completion: str) -> FollowUp:
        complaints = oracle.react(completion, self.wanted).wanted
        text = language.write_request(random, complaints) if complaints else language.write_thanks(random)
        return FollowUp(text, satisfied=not complaints)
