"""A persona and a client make a user: it reads an exchange and writes a follow-up."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sdpo.errors import ServerError, SettingError, SimulatorUnavailable, nearest, one_line
from sdpo.llm import Client, Reply, Request
from sdpo.text.prompts import PERSONAS, user_messages


@dataclass(frozen=True)
class FollowUp:
    """What the user wrote. `problem` is None, "empty" or "failed"; `error` says why it failed."""

    text: str
    problem: str | None = None
    error: ServerError | None = None


def personas(style_file: Path | None = None) -> dict[str, str]:
    """Return style -> what the persona says of itself: the shipped ones and the file's, which go first.

    Raises SettingError where the file is not a JSON object of texts.
    """
    if style_file is None:
        return dict(PERSONAS)
    try:
        added = json.loads(Path(style_file).read_text("utf-8"))
    except OSError as error:
        raise SettingError(f"STYLE_FILE {style_file} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise SettingError(f"STYLE_FILE {style_file} is not JSON: {one_line(error)}.") from None
    if not isinstance(added, dict):
        raise SettingError(f'STYLE_FILE {style_file} must hold a JSON object such as {{"brief": "I like it brief."}}.')
    for style, persona in added.items():
        if not style.strip():
            raise SettingError(f"STYLE_FILE {style_file} has a style without a name.")
        if not isinstance(persona, str) or not persona.strip():
            raise SettingError(f"STYLE_FILE {style_file}: the persona of {style} must be a text that is not empty.")
    return PERSONAS | {style: persona.strip() for style, persona in added.items()}


def persona_of(style: str, style_file: Path | None = None) -> str:
    """Return the persona of a style. Raises SettingError where there is none by this name."""
    known = personas(style_file)
    if style not in known:
        raise SettingError(
            f"STYLE {style} is not known.{nearest(style, known)} "
            f"There are {', '.join(known)}; STYLE_FILE adds your own."
        )
    return known[style]


class SimulatedUser:
    """A user with a taste. `latest` holds what the last call of `react` got, failures among it.

    `round` numbers the draws: the same exchange in another round gets another reply, in the same round the
    reply that is already there.
    """

    def __init__(self, client: Client, persona: str, temperature: float, max_tokens: int):
        self.client = client
        self.persona = persona
        self.temperature = temperature
        self.max_tokens = max_tokens
        self.round = 0
        self.latest: list[FollowUp] = []

    def react(self, prompts: Sequence[str], completions: Sequence[str]) -> list[FollowUp]:
        """Return the follow-up to each exchange, and begin another round.

        Raises SimulatorUnavailable where any is missing. The round then stays: a second call with the same exchanges
        asks only for the rest.
        """
        requests = [self._request(*exchange) for exchange in zip(prompts, completions, strict=True)]
        self.latest = [_follow_up(reply) for reply in self.client.complete(requests)]
        failed = [follow_up for follow_up in self.latest if follow_up.problem == "failed"]
        if failed:
            raise SimulatorUnavailable(
                f"{len(failed)} of {len(requests)} reactions of the simulated user ({self.client.name}) did not come. "
                f"First cause: {one_line(failed[0].error, 200)} "
                "Bring it back (a local server: make simulator), then run the same command with this RUN_ID to go on."
            )
        self.round += 1
        return self.latest

    def _request(self, prompt: str, completion: str) -> Request:
        messages = user_messages(self.persona, prompt, completion)
        return Request(messages, self.temperature, self.max_tokens, sample=self.round)


def _follow_up(reply: Reply | ServerError) -> FollowUp:
    if isinstance(reply, ServerError):
        return FollowUp("", "failed", reply)
    text = reply.text.strip()
    return FollowUp(text, None if text else "empty")
