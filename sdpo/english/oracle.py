"""The exact reader of real language: by rule, how far answers fit a style and whether a user is content."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sdpo.english.checkers import CHECKERS, checker_of
from sdpo.english.markdown import count_words, has_word
from sdpo.english.probes import probes
from sdpo.english.styles import STYLES, praise
from sdpo.english.users import StyleUser
from sdpo.text.prompts import GENERAL_PROMPTS, OPEN_PROMPTS, REHEARSAL_PROMPTS
from sdpo.users.rule_user import RuleUser
from sdpo.users.styles import OwnStyle

_GRAM = 4
_MOST_REPEATS = 4


class EnglishOracle:
    """The oracle of one style (see `sdpo.users.oracle.Oracle`)."""

    reads_any_user = False
    general_prompts: tuple[str, ...] = GENERAL_PROMPTS
    rehearsal_prompts: tuple[str, ...] = REHEARSAL_PROMPTS
    open_prompts: Mapping[str, tuple[str, ...]] = OPEN_PROMPTS

    def __init__(self, style: str, own: OwnStyle | None = None) -> None:
        self.style, self.own, self.checker = style, own, checker_of(style, own)

    @staticmethod
    def speaks(model: str) -> bool:
        """Return True: a model that speaks another language of this project is another oracle's first."""
        return True

    @staticmethod
    def reads(model: str, style: str, own: OwnStyle | None) -> bool:
        """Return whether a rule checks the style; the answers of any model can be read."""
        return style in STYLES if own is None else bool(own.rule) or STYLES.get(style) == own.persona

    def user(self, seed: int) -> RuleUser:
        """Return a simulated user who complains about answers that do not fit the style, and praises the others."""
        return StyleUser(self.style, seed, own=self.own)

    def summarize(self, prompts: Sequence[str], completions: Sequence[str]) -> dict[str, Any]:
        """Return what the completions are like as a whole; `axes` has the share that fits each other style."""
        pairs = list(zip(prompts, completions, strict=True))
        others = {style: checker for style, checker in CHECKERS.items() if style != self.checker.style}
        return {
            "adherence": _share(self.checker.fits(text, prompt) for prompt, text in pairs),
            "validity": _share(map(is_valid, completions)),
            "mean_length": _share(map(count_words, completions)),
            "axes": {
                style: _share(checker.fits(text, prompt) for prompt, text in pairs) for style, checker in others.items()
            },
            "answers": len(pairs),
        }

    def fits(self, completion: str, prompt: str = "") -> bool:
        """Return whether a completion of the prompt fits the style."""
        return self.checker.fits(completion, prompt)

    def is_satisfied(self, follow_up: str) -> bool:
        """Return whether a user's message is praise in one of the room's wordings, held out ones among them."""
        return follow_up.strip() in praise(own=self.own) + praise(held_out=True, own=self.own)

    def probes(self, seed: int) -> Sequence[tuple[str, str]]:
        """Return the shipped answers in many shapes, with their prompts."""
        return probes(self.style)

    def verdict(self, first: str, second: str, prompt: str = "") -> str:
        """Return A or B for the only completion that fits the style, C if both or neither do."""
        fits = self.fits(first, prompt), self.fits(second, prompt)
        return "C" if fits[0] == fits[1] else "A" if fits[0] else "B"


def is_valid(text: str) -> bool:
    """Return whether an answer has a word and no four words in a row come more than four times."""
    words = re.findall(r"\w+", text.lower())
    grams = Counter(zip(*(words[start:] for start in range(_GRAM)), strict=False))
    return has_word(text) and max(grams.values(), default=0) <= _MOST_REPEATS


def _share(values: Iterable[float]) -> float:
    numbers = [float(value) for value in values]
    return round(sum(numbers) / max(len(numbers), 1), 4)
