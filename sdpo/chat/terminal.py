"""The chat on a terminal, or on a pipe: where lines come from, and what Ctrl-C does."""

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from sdpo.chat.client import ChatClient
from sdpo.chat.commands import COMMANDS
from sdpo.chat.screens import PlainScreen, RichScreen
from sdpo.chat.session import ChatSession, Screen, options_of
from sdpo.errors import SdpoError

if TYPE_CHECKING:
    from sdpo.settings import ChatSettings

# Returns the next line, None at the end of the input.
Reader = Callable[[], Coroutine[Any, Any, str | None]]
Value = TypeVar("Value")


def run(settings: "ChatSettings") -> int:
    """Chat until /quit or the end of the input, and return the exit code."""
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    return asyncio.run(_chat(settings, interactive))


async def _chat(settings: "ChatSettings", interactive: bool) -> int:
    screen: Screen = RichScreen() if interactive else PlainScreen()
    timeout = settings.chat_timeout
    async with ChatClient(settings.gateway_url, settings.gateway_api_key, timeout, options_of(settings)) as client:
        session = ChatSession(client, settings, screen)
        waits = _Waits()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, waits.interrupt, session)
        read = _prompt_toolkit_reader() if interactive else _pipe_reader()
        if interactive:
            await _greet(session)
        while True:
            try:
                line = await waits.on(read())
            except asyncio.CancelledError:
                raise KeyboardInterrupt from None
            try:
                if line is None or not await waits.on(session.line(line)):
                    # A script that talks through a pipe learns that it got no answer.
                    return session.failed.exit_code if session.failed and not interactive else 0
            except asyncio.CancelledError:
                screen.say("(stopped)")


class _Waits:
    """What the chat waits for, which Ctrl-C ends: an answer, other work on a line, or without any the next line."""

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None

    async def on(self, work: Coroutine[Any, Any, Value]) -> Value:
        """Return what the work returns. Raises CancelledError if Ctrl-C ended it."""
        self._task = asyncio.ensure_future(work)
        try:
            return await self._task
        finally:
            self._task = None

    def interrupt(self, session: ChatSession) -> None:
        """End what the chat waits for. An answer that is stopped stays in the conversation as far as it came."""
        if not session.stop() and self._task is not None:
            self._task.cancel()


async def _greet(session: ChatSession) -> None:
    session.screen.say(f"talking to {session.live} at {session.settings.gateway_url}; /help lists the commands")
    try:
        await session.client.models()
    except SdpoError as error:
        session.screen.error(str(error))


def _prompt_toolkit_reader() -> Reader:
    """Return a reader with a history on the arrow keys and completion of commands. It needs a terminal."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import WordCompleter

    names = WordCompleter([f"/{name}" for name in COMMANDS], sentence=True)
    prompt: PromptSession[str] = PromptSession(completer=names, complete_while_typing=False)

    async def read() -> str | None:
        while True:
            try:
                return await prompt.prompt_async("you: ", handle_sigint=False)
            except KeyboardInterrupt:
                continue  # Ctrl-C empties the line, as in a shell; Ctrl-D leaves
            except EOFError:
                return None

    return read


def _pipe_reader() -> Reader:
    """Return a reader of the lines of the standard input, which a thread reads: it may block for ever."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()

    def feed() -> None:
        try:
            for line in sys.stdin:
                loop.call_soon_threadsafe(lines.put_nowait, line.rstrip("\r\n"))
            loop.call_soon_threadsafe(lines.put_nowait, None)
        except (RuntimeError, ValueError):
            pass  # the chat has ended

    threading.Thread(target=feed, daemon=True).start()
    return lines.get
