"""Labelled pairs of answers: which of the two is better for a user, known beforehand, to try a judge on."""

from dataclasses import dataclass

# What tells the two answers apart. `order`: the style, and a judge must name the same answer in both orders. `length`:
# the style, and the better answer is never the longer one. `style`: the style alone. `content`: the style is equal, and
# one answer is wrong, off the topic, without meaning or without content.
KINDS = ("order", "length", "style", "content")


@dataclass(frozen=True)
class LabelledPair:
    """Two answers to a prompt, `better` (first or second) is the one that suits the persona; `kind` is one of KINDS.

    `persona` is the text of `style`.
    """

    id: str
    kind: str
    style: str
    persona: str
    prompt: str
    first: str
    second: str
    better: str

    @property
    def answers(self) -> tuple[str, str]:
        """The better answer and the other one."""
        return (self.first, self.second) if self.better == "first" else (self.second, self.first)
