"""Turns the messages of one conversation into interactions. Pure functions."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sdpo.data.found import own_words
from sdpo.text.prompts import Message
from sdpo.text.records import Interaction

HISTORY = 5  # messages kept before the answer, not counting the system message

# Why a turn has no text, or no text that can be learned from.
NO_TEXT = "a turn without text"
MEDIA = "a turn that is only a picture, a file or sound"
REFUSAL = "a refusal instead of an answer"
THOUGHTS = "an answer that is only thoughts"
PLACEHOLDER = "an answer that the export does not hold"
FAILED = "an answer that failed"
HALF = "text with half a character"


class Dropped(NamedTuple):
    """The reason why a row, conversation or answer is dropped; `where` is its file and row, if known."""

    reason: str
    where: str = ""


class SourceMessage(NamedTuple):
    """The text of one message; the role is user, assistant, system or tool.

    missing: why there is no text (it then still separates the messages around it). leave_out: why this answer, though
    its text is known, is not to be learned from. beside: a picture or file belongs to the text. rating: the user's
    rating of the answer, 1 for thumbs up and -1 for thumbs down. id: its name in the source, if ratings refer to it.
    finished: False for an answer that was truncated or stopped.
    """

    role: str
    text: str
    missing: str = ""
    leave_out: str = ""
    beside: bool = False
    rating: float | None = None
    id: str = ""
    finished: bool = True


@dataclass
class Conversation:
    """A conversation in chronological order; `rows` is the number of rows of the source that it came from.

    `note` is what was decided in reading it, for the report. `logged` is whether it is a logged request and its answer.
    """

    id: str
    messages: list[SourceMessage]
    model: str | None = None
    timestamp: str | None = None
    rows: int = 1
    note: str = ""
    logged: bool = False


@dataclass
class _Turn:
    role: str
    text: str = ""
    uses_tools: bool = False
    missing: str = ""  # why there is no text, or no complete text
    leave_out: str = ""
    rating: float | None = None
    finished: bool = True
    hole: str = ""  # why a message after the text so far has none

    def add(self, message: SourceMessage) -> None:
        """Add a message of this role: texts are joined, unless a message without text lies between them."""
        if message.text and self.text:
            self.text = f"{self.text}\n\n{message.text}"
            self.missing = self.missing or self.hole
        elif message.text:
            self.text, self.missing = message.text, ""
        elif not self.text:
            self.missing = self.missing or message.missing or NO_TEXT
        elif message.missing != THOUGHTS:  # thoughts are never shown, so what is around them is one answer
            self.hole = message.missing or NO_TEXT
        self.finished = message.finished if message.text else self.finished
        self.leave_out = self.leave_out or message.leave_out
        self.rating = self.rating if message.rating is None else message.rating

    def fault(self) -> str:
        """Return why this turn cannot be part of an interaction, or an empty string."""
        return "a tool was used" if self.uses_tools else self.missing


@dataclass(frozen=True)
class Limits:
    """Limits on a conversation.

    messages: at least this many messages with text. characters: at most this many in all. answer, user_message: at
    most this many characters in one answer and in one user message.
    """

    messages: int = 3
    characters: int = 100_000
    answer: int = 4096
    user_message: int | None = None


@dataclass
class Turns:
    """Alternating turns of user and assistant, and system texts, each with the index of the turn it precedes."""

    turns: list[_Turn] = field(default_factory=list)
    systems: list[tuple[int, str]] = field(default_factory=list)


def interactions(conversation: Conversation) -> list[Interaction | Dropped]:
    """Return an interaction for each answer that a user replied to, or the reason why there is none."""
    joined = _joined(conversation.messages)
    results: list[Interaction | Dropped] = []
    for index, (turn, reply) in enumerate(zip(joined.turns, joined.turns[1:], strict=False)):
        if turn.role != "assistant":
            continue
        history = _history(joined.turns, index)
        faults = [one.fault() for one in (turn, *history, reply) if one.fault()]
        if not history:
            results.append(Dropped("nothing was asked before the answer"))
        elif faults:
            results.append(Dropped("a tool was used" if "a tool was used" in faults else faults[0]))
        elif turn.leave_out:
            results.append(Dropped(turn.leave_out))
        else:
            system = "\n\n".join(text for before, text in joined.systems if before <= index)
            prompt: list[Message] = [{"role": "system", "content": system}] if system else []
            prompt += [{"role": earlier.role, "content": earlier.text} for earlier in history]
            results.append(
                Interaction(
                    id=f"{conversation.id}_{index}",
                    conversation_id=conversation.id,
                    turn_id=index,
                    model=conversation.model,
                    timestamp=conversation.timestamp,
                    prompt=prompt,
                    completion=turn.text,
                    user_response=own_words(reply.text),
                    rating=turn.rating,
                    finished=turn.finished,
                )
            )
    return results


class End(NamedTuple):
    """The answer that a conversation ends with, the texts before it, and what is known of it beside its text."""

    texts: tuple[str, ...]
    answer: str
    rating: float | None
    finished: bool


def end_of(conversation: Conversation) -> End | None:
    """Return the answer that a conversation ends with, if it was rated or is not finished."""
    turns = _joined(conversation.messages).turns
    last = turns[-1] if turns else _Turn("user")
    if last.role != "assistant" or not last.text or (last.rating is None and last.finished):
        return None
    texts = tuple(earlier.text for earlier in _history(turns, len(turns) - 1))
    return End(texts, last.text, last.rating, last.finished)


def _history(turns: list[_Turn], index: int) -> list[_Turn]:
    """Return the turns before an answer, from one of the user's on."""
    history = turns[max(0, index - HISTORY) : index]
    return history[1:] if history and history[0].role == "assistant" else history


def over_limits(messages: Sequence[SourceMessage], limits: Limits) -> Dropped | None:
    """Return why a conversation is too short or too long, or None if it is within the limits."""
    lengths = {
        role: [len(message.text) for message in messages if message.text and message.role == role]
        for role in ("user", "assistant")
    }
    users, answers = lengths["user"], lengths["assistant"]
    if len(users) + len(answers) < limits.messages:
        return Dropped(f"fewer than {limits.messages} messages")
    if sum(users) + sum(answers) > limits.characters:
        return Dropped(f"more than {limits.characters:,} characters")
    if answers and max(answers) > limits.answer:
        return Dropped(f"an answer over {limits.answer:,} characters")
    if limits.user_message and users and max(users) > limits.user_message:
        return Dropped(f"a user message over {limits.user_message:,} characters")
    return None


def _joined(messages: Iterable[SourceMessage]) -> Turns:
    """Return the turns: consecutive messages of one role are joined, tools noted on their turn.

    A message without text still is a turn: the messages around it belong to different questions or answers.
    """
    joined = Turns()
    turns = joined.turns
    for message in messages:
        if message.role == "tool":
            if not turns or turns[-1].role != "assistant":
                turns.append(_Turn("assistant"))
            turns[-1].uses_tools = True
        elif message.role == "system":
            if message.text:
                joined.systems.append((len(turns), message.text))
        else:
            if not turns or turns[-1].role != message.role:
                turns.append(_Turn(message.role))
            turns[-1].add(message)
    return joined
