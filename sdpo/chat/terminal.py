"""The chat on a terminal, or on a pipe: where lines come from, and what Ctrl-C does."""

import asyncio
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from sdpo.chat.client import ChatClient
from sdpo.chat.commands import COMMANDS
from sdpo.chat.screens import PlainScreen, RichScreen
from sdpo.chat.session import ChatSession, Screen, options_of
from sdpo.errors import SdpoError

if TYPE_CHECKING:
    from sdpo.settings import ChatSettings

# Returns the next line, None at the end of the input.
Reader = Callable[[], Awaitable[str | None]]


def run(settings: "ChatSettings") -> int:
    """Chat until /quit or the end of the input, and return the exit code."""
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    return asyncio.run(_chat(settings, interactive))


async def _chat(settings: "ChatSettings", interactive: bool) -> int:
    screen: Screen = RichScreen() if interactive else PlainScreen()
    timeout = settings.chat_timeout
    async with ChatClient(settings.gateway_url, settings.gateway_api_key, timeout, options_of(settings)) as client:
        session = ChatSession(client, settings, screen)
        reading: list[asyncio.Future] = []
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, _interrupt, session, reading)
        read = _prompt_toolkit_reader() if interactive else _pipe_reader()
        if interactive:
            await _greet(session)
        while True:
            waiting = asyncio.ensure_future(read())
            reading[:] = [waiting]
            try:
                line = await waiting
            except asyncio.CancelledError:
                raise KeyboardInterrupt from None
            finally:
                reading.clear()
            if line is None or not await session.line(line):
                return 0


def _interrupt(session: ChatSession, reading: list[asyncio.Future]) -> None:
    """On Ctrl-C stop the answer that is coming; without one, end the chat."""
    if not session.stop():
        for waiting in reading:
            waiting.cancel()


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
