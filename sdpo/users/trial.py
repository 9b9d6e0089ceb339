"""The trial of a simulated user: what it replies to answers of which is known whether they fit its style.

A user that praises everything, repeats its instructions or writes another language teaches noise. The trial finds
this in some twenty replies.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

from sdpo.errors import on_one_line
from sdpo.llm import has_thoughts
from sdpo.text.prompts import USER_STATES_SATISFACTION, USER_SYSTEM, USER_TURN
from sdpo.users.language import language_of
from sdpo.users.satisfaction import reads_as_satisfied
from sdpo.users.simulator import FollowUp

PROBES = 20
FEWEST_OF_A_KIND = 4  # probes that fit, and that do not
ECHO_WORDS = 6  # so many words in a row are copied, not chosen again
LONG_WORDS = 60  # one or two short sentences are asked for

# Half of the probes fit, so a user that always says the same is right in 0.5 of them; one that draws lots reaches 0.75
# in 2 of 100 trials, one that is right in 0.9 of its replies misses it in 1 of 100.
RIGHT_AT_LEAST = 0.75
# A few replies of this kind are only left out or weak; more of them, and the model learns to write them itself.
ECHO_AT_MOST = EMPTY_AT_MOST = FOREIGN_AT_MOST = 0.2
LONG_AT_MOST = 0.5  # a long follow-up may still say what is wanted

_PLACEHOLDER = re.compile(r"\{\w+\}")
_INSTRUCTIONS = [
    part for text in (USER_SYSTEM, USER_STATES_SATISFACTION, USER_TURN) for part in _PLACEHOLDER.split(text)
]


class Probe(NamedTuple):
    """A prompt with an answer; `fits` is whether the answer fits the user's style, None if nobody knows."""

    prompt: str
    answer: str
    fits: bool | None


@dataclass(frozen=True)
class Reaction:
    """A probe, the user's reply, and what is wrong with it. `right` is None if it is not known whether the probe fits.

    An empty reply and one that is neither praise nor a wish are not right. `reply` is all that the user wrote if its
    reply is empty: its thoughts, say.
    """

    probe: Probe
    reply: str
    satisfied: bool | None
    right: bool | None
    echo: bool
    foreign: bool
    words: int


def choose_probes(
    exchanges: Sequence[tuple[str, str]], fits: Callable[[str, str], bool] | None, seed: int, count: int = PROBES
) -> list[Probe]:
    """Return `count` of the pairs of prompt and answer, drawn by the seed; as many that fit as that do not.

    `fits` takes an answer and its prompt. Without it the probes are any, and it is not known whether they fit; nor is
    it used if hardly any pair fits, or hardly any does not: a user that always says the same would pass. There are
    fewer probes if there are not enough pairs.
    """
    exchanges = list(exchanges)
    random = Random(seed)
    random.shuffle(exchanges)
    probes = [Probe(prompt, answer, fits(answer, prompt) if fits else None) for prompt, answer in exchanges]
    halves = [[probe for probe in probes if probe.fits is kind][: count // 2] for kind in (True, False)]
    if min(map(len, halves)) < FEWEST_OF_A_KIND:
        return [probe._replace(fits=None) for probe in probes[:count]]
    chosen = halves[0] + halves[1]
    random.shuffle(chosen)
    return chosen


class Trial:
    """The reactions of a user to the probes, and what they show."""

    def __init__(
        self,
        probes: Sequence[Probe],
        follow_ups: Sequence[FollowUp],
        is_satisfied: Callable[[str], bool] | None = None,
    ) -> None:
        self.reactions = [read_reaction(*pair, is_satisfied) for pair in zip(probes, follow_ups, strict=True)]

    def figures(self) -> dict[str, float | None]:
        """Return the shares of reactions of each kind and their mean length in words.

        `right` is None if it is not known which probes fit.
        """
        rights = [reaction.right for reaction in self.reactions if reaction.right is not None]
        return {
            "right": _share(rights) if rights else None,
            "echo": _share(reaction.echo for reaction in self.reactions),
            "foreign": _share(reaction.foreign for reaction in self.reactions),
            "empty": _share(not reaction.words for reaction in self.reactions),
            "long": _share(reaction.words > LONG_WORDS for reaction in self.reactions),
            "mean_words": _share(reaction.words for reaction in self.reactions),
        }

    def failures(self) -> list[str]:
        """Return what the user failed by, in words; empty if it passed."""
        figures, failures = self.figures(), []
        if figures["right"] is not None and figures["right"] < RIGHT_AT_LEAST:
            failures.append(f"{figures['right']:.0%} of its reactions were right, {RIGHT_AT_LEAST:.0%} have to be")
        for name, (limit, words) in _LIMITS.items():
            if (share := figures[name] or 0.0) > limit:
                words = _THOUGHTS if name == "empty" and self._thinks_aloud() else words
                failures.append(f"{share:.0%} of its replies {words}, at most {limit:.0%} may")
        return failures

    def _thinks_aloud(self) -> bool:
        return any(not reaction.words and has_thoughts(reaction.reply) for reaction in self.reactions)

    def table(self) -> str:
        """Return the figures with their limits as lines of text."""
        figures = self.figures()
        right = "not known" if figures["right"] is None else f"{figures['right']:.2f}"
        rows = [("right", right, f"at least {RIGHT_AT_LEAST}")]
        rows += [(name, f"{figures[name]:.2f}", f"at most {limit}") for name, (limit, _) in _LIMITS.items()]
        rows.append(("mean words", f"{figures['mean_words']:.1f}", ""))
        fit = sum(bool(reaction.probe.fits) for reaction in self.reactions)
        kinds = "" if figures["right"] is None else f", {fit} with an answer that fits the style"
        head = f"trial of the simulated user: {len(self.reactions)} probes{kinds}"
        return "\n".join([head, *(f"  {name:<12}{value:>10}  {limit}".rstrip() for name, value, limit in rows)])

    def examples(self, count: int = 3) -> str:
        """Return some reactions as lines of text, first those that something is wrong with."""
        chosen = sorted(self.reactions, key=lambda reaction: not is_faulty(reaction))[:count]
        return "\n".join(
            f"  {name:<7} {on_one_line(text, 160)}"
            for reaction in chosen
            for name, text in (
                ("prompt", reaction.probe.prompt),
                ("answer", reaction.probe.answer),
                ("reply", reaction.reply),
            )
        )

    def as_json(self) -> dict[str, Any]:
        """Return figures, failures and all reactions as JSON values."""
        rows = [
            {
                "prompt": reaction.probe.prompt,
                "answer": reaction.probe.answer,
                "fits": reaction.probe.fits,
                "reply": reaction.reply,
                **{name: getattr(reaction, name) for name in ("satisfied", "right", "echo", "foreign")},
            }
            for reaction in self.reactions
        ]
        return {"failures": self.failures(), "figures": self.figures(), "reactions": rows}


def read_reaction(probe: Probe, follow_up: FollowUp, is_satisfied: Callable[[str], bool] | None = None) -> Reaction:
    """Return what a follow-up to a probe shows.

    Whether the user is satisfied is what it states, else what `is_satisfied` reads, else what its words suggest.
    """
    text, satisfied = follow_up.text, follow_up.satisfied
    if satisfied is None and text:
        satisfied = is_satisfied(text) if is_satisfied is not None else reads_as_satisfied(text)
    right = None if probe.fits is None else bool(text) and satisfied is probe.fits
    copied = _runs(text) & set().union(*map(_runs, (probe.answer, *_INSTRUCTIONS)))
    expected, found = language_of(probe.prompt), language_of(text)
    foreign = None not in (expected, found) and expected != found
    return Reaction(
        probe, text or follow_up.written.strip(), satisfied, right, bool(copied), foreign, len(text.split())
    )


def is_faulty(reaction: Reaction) -> bool:
    """Return whether anything is wrong with a reaction."""
    wrong_form = reaction.echo or reaction.foreign or not 0 < reaction.words <= LONG_WORDS
    return reaction.right is False or wrong_form


# Figure -> the share that is allowed, and what is wrong, in words.
_LIMITS: dict[str, tuple[float, str]] = {
    "echo": (ECHO_AT_MOST, "repeat its instructions or the answer"),
    "foreign": (FOREIGN_AT_MOST, "are in another language than the prompt"),
    "empty": (EMPTY_AT_MOST, "are empty"),
    "long": (LONG_AT_MOST, f"have more than {LONG_WORDS} words"),
}

_THOUGHTS = (
    "are thoughts and nothing else (start its server with thinking off, choose a model that does not think, or raise "
    "USER_MAX_TOKENS)"
)


def _runs(text: str) -> set[tuple[str, ...]]:
    """Return all runs of ECHO_WORDS words."""
    words = re.findall(r"\w+(?:['’]\w+)*", text.lower())
    return set(zip(*(words[start:] for start in range(ECHO_WORDS)), strict=False))


def _share(values: Any) -> float:
    numbers = [float(value) for value in values]
    return round(sum(numbers) / max(len(numbers), 1), 4)
