"""One conversation: its messages, its answers, and the interaction that a follow-up completes."""

import uuid
from dataclasses import dataclass, field

from sdpo.chat.client import Answer
from sdpo.text.prompts import Message


@dataclass(frozen=True)
class Interaction:
    """A prompt, the answer to it, and what the user wrote next."""

    prompt: list[Message]
    answer: str
    follow_up: str
    finished: bool = True


@dataclass
class Conversation:
    """The messages so far. `answers` holds the answer at each index of an assistant message."""

    system: str | None = None
    id: str = field(default_factory=lambda: f"chat-{uuid.uuid4().hex}")
    turns: list[Message] = field(default_factory=list)
    answers: dict[int, Answer] = field(default_factory=dict)

    @property
    def messages(self) -> list[Message]:
        """The messages to send, the system message first if there is one."""
        head: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return [*head, *self.turns]

    def ask(self, text: str) -> None:
        """Add a message of the user."""
        self.turns.append({"role": "user", "content": text})

    def take_back(self) -> None:
        """Remove the last message of the user, which got no answer."""
        if self.turns and self.turns[-1]["role"] == "user":
            self.turns.pop()

    def add(self, answer: Answer) -> None:
        """Add an answer."""
        self.answers[len(self.turns)] = answer
        self.turns.append({"role": "assistant", "content": answer.text})

    @property
    def last_answer(self) -> tuple[int, Answer] | None:
        """The index of the last answer among the sent messages, and the answer; None if there is none."""
        if not self.answers:
            return None
        index = max(self.answers)
        return index + bool(self.system), self.answers[index]

    @property
    def last_interaction(self) -> Interaction | None:
        """The last answer that has a follow-up, with its prompt; None if there is none."""
        for index in reversed(range(2, len(self.turns))):
            before, at = self.turns[index - 1], self.turns[index]
            if (before["role"], at["role"]) == ("assistant", "user") and before["content"]:
                answer = self.answers.get(index - 1)
                head = self.messages[: index - 1 + bool(self.system)]
                finished = answer.finished if answer else True
                return Interaction(head, before["content"], at["content"], finished)
        return None
