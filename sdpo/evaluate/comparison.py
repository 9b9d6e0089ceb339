"""What an evaluation compared and found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sdpo.evaluate.answers import Answer
from sdpo.evaluate.win_rates import WinRate
from sdpo.text.prompts import Message
from sdpo.users.judge import VerdictPair


@dataclass(frozen=True)
class EvaluationPrompt:
    """A validation prompt: its id, the user's text, and the messages that a model is sent."""

    id: str
    text: str
    messages: list[Message]


@dataclass(frozen=True)
class Comparison:
    """Everything that was found.

    `verdict_pairs` holds by judge and checkpoint the verdicts on each prompt's two answers, in both orders.
    """

    prompts: Sequence[EvaluationPrompt]
    too_long: int
    persona: str
    weights: Mapping[str, str]
    generated: Mapping[str, int]
    answers: Mapping[str, Sequence[Answer]]
    verdict_pairs: Mapping[str, Mapping[str, Sequence[VerdictPair | None]]]
    rows: Sequence[WinRate]
    agreement: Sequence[dict]
    warnings: Sequence[str]
