"""Simulated users: a model behind an API plays a persona, reads an exchange and writes a follow-up."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sdpo.errors import ServerError, SimulatorUnavailable, command, one_line
from sdpo.llm import Client, Reply, Request
from sdpo.text.prompts import USER_REPLY_SCHEMA, user_messages
from sdpo.users.satisfaction import read_reply
from sdpo.users.usable import FirstReplies


@dataclass(frozen=True)
class FollowUp:
    """A follow-up. `problem` is None, "empty" or "failed"; `error` is the cause if it failed, otherwise None.

    `satisfied` is whether the user is content with the answer; None if that is not known. `written` is all that a model
    wrote, thoughts included.
    """

    text: str
    problem: str | None = None
    error: ServerError | None = None
    satisfied: bool | None = None
    written: str = field(default="", compare=False)


class SimulatedUser:
    """A simulated user. `latest` holds the follow-ups of the last call of `react`, including failed ones.

    `round` numbers the samples: the same exchange gets a new reply in another round, and the cached reply in the same
    round. With `states_satisfaction` the user is also asked whether it is satisfied, in the same reply.
    """

    def __init__(
        self, client: Client, persona: str, temperature: float, max_tokens: int, states_satisfaction: bool = False
    ):
        self.client = client
        self.persona = persona
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.states_satisfaction = states_satisfaction
        self.round = 0
        self.latest: list[FollowUp] = []
        self._first_replies: FirstReplies | None = None

    def watch_first_replies(self) -> None:
        """From now on end with UnusableReplies if most of the first replies are empty."""
        self._first_replies = FirstReplies(
            f"replies of the simulated user ({self.client.name})",
            "Choose another USER_MODEL_NAME_OR_PATH; a model that thinks without showing it needs a larger "
            "USER_MAX_TOKENS.",
            "It thinks aloud: start its server with thinking off, choose a model that does not think, or raise "
            f"USER_MAX_TOKENS ({self.max_tokens}).",
        )

    def react(self, prompts: Sequence[str], completions: Sequence[str]) -> list[FollowUp]:
        """Return the follow-up to each exchange, and begin the next round.

        Raises SimulatorUnavailable if any is missing. The round is then not advanced: another call with the same
        exchanges requests only the missing ones.
        """
        requests = [self._request(*exchange) for exchange in zip(prompts, completions, strict=True)]
        self.latest = [self._follow_up(reply) for reply in self.client.complete(requests)]
        errors = [follow_up.error for follow_up in self.latest if follow_up.error is not None]
        if errors:
            raise SimulatorUnavailable(
                f"{len(errors)} of {len(requests)} follow-ups of the simulated user ({self.client.name}) are missing. "
                f"First error: {one_line(errors[0], 200)} "
                f"Restart its server (local: {command('simulator')}), then run the same command with this RUN_ID to "
                "resume."
            )
        if self._first_replies is not None:
            usable = [follow_up.problem is None for follow_up in self.latest]
            self._first_replies.add([follow_up.written for follow_up in self.latest], usable)
        self.round += 1
        return self.latest

    def _request(self, prompt: str, completion: str) -> Request:
        messages = user_messages(self.persona, prompt, completion, self.states_satisfaction)
        schema = USER_REPLY_SCHEMA if self.states_satisfaction else None
        return Request(messages, self.temperature, self.max_tokens, schema=schema, sample=self.round)

    def _follow_up(self, reply: Reply | ServerError) -> FollowUp:
        """Return the follow-up in a reply, or a failed one for an error."""
        if isinstance(reply, ServerError):
            return FollowUp("", "failed", reply)
        text, satisfied = read_reply(reply.text) if self.states_satisfaction else (reply.text.strip(), None)
        return FollowUp(text, None if text else "empty", satisfied=satisfied, written=reply.written)
