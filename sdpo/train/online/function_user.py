"""A user that is a function: what it is called with, what it may return, and what happens if it fails."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence

from sdpo.errors import UserFailed, one_line
from sdpo.text.prompts import Message
from sdpo.train.online.background_request import BackgroundRequest
from sdpo.users.simulator import FollowUp

# A follow-up as a function may return it: a text; None from a user who wrote nothing; or with what else is known of it.
Reply = str | FollowUp | None
# Called with conversations and the answers to them. It may be slow, and it may be async.
UserFunction = Callable[[list[list[Message]], list[str]], Sequence[Reply] | Awaitable[Sequence[Reply]]]


class FunctionUser:
    """Calls a function for the follow-ups. `round`, by which the trainer numbers the calls, has no effect."""

    def __init__(self, function: UserFunction) -> None:
        self.function = function
        self.round = 0

    def reply(self, prompts: list[list[Message]], completions: list[str]) -> list[FollowUp]:
        """Return the follow-up to each completion; its text is empty where the function returned None.

        Raises UserFailed if the function raises an exception, or returns anything but one reply for each completion.
        """
        copies = [[{**message} for message in prompt] for prompt in prompts]  # what a function changes stays its own
        try:
            replies = self.function(copies, list(completions))
            if inspect.isawaitable(replies):
                replies = _result_of(replies)
        except Exception as error:
            raise UserFailed(
                f"the user function {self.name} raised {type(error).__name__}: {one_line(error)}. Correct it, and "
                "resume training from the last checkpoint."
            ) from error
        return self._checked(replies, len(completions))

    def react(self, prompts: list[str], completions: list[str]) -> list[FollowUp]:
        """Return the follow-ups to answers to prompts of one message each."""
        return self.reply([[{"role": "user", "content": prompt}] for prompt in prompts], completions)

    @property
    def name(self) -> str:
        """The function's name."""
        return getattr(self.function, "__name__", type(self.function).__name__)

    def _checked(self, replies: object, count: int) -> list[FollowUp]:
        expected = f"a list of {count}, one for each answer, each a text or None"
        if not isinstance(replies, Sequence) or isinstance(replies, str):
            raise UserFailed(f"the user function {self.name} returned {type(replies).__name__}, not {expected}.")
        if len(replies) != count:
            raise UserFailed(f"the user function {self.name} returned {len(replies)} follow-ups, not {expected}.")
        for number, reply in enumerate(replies):
            if not isinstance(reply, Reply):
                found = f"{type(reply).__name__} for answer {number}"
                raise UserFailed(f"the user function {self.name} returned {found}, not {expected}.")
        return [reply if isinstance(reply, FollowUp) else FollowUp((reply or "").strip()) for reply in replies]


def _result_of(awaitable: Awaitable[Sequence[Reply]]) -> Sequence[Reply]:
    """Run to the end in a thread of its own: the thread of a notebook has a running event loop already."""

    async def wait() -> Sequence[Reply]:
        return await awaitable

    return BackgroundRequest(lambda: asyncio.run(wait())).result()
