"""A chat: what each line does. It knows no terminal, only a screen that shows what happened."""

import asyncio
import json
import shlex
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

from sdpo.chat import commands
from sdpo.chat.client import Answer, ChatClient
from sdpo.chat.commands import Command
from sdpo.chat.conversation import Conversation
from sdpo.chat.signal import NO_FOLLOW_UP, NO_MODEL, Signal, SignalScorer
from sdpo.errors import SdpoError, ServerError, SettingError, nearest

if TYPE_CHECKING:
    from sdpo.settings import ChatSettings


class Screen(Protocol):
    """What shows a chat."""

    def say(self, text: str) -> None:
        """Show a line about the chat itself."""
        ...

    def error(self, text: str) -> None:
        """Show what went wrong, in one line."""
        ...

    def begin(self, names: list[str]) -> None:
        """Begin to show an answer, or several side by side, by the names of their models."""
        ...

    def part(self, index: int, text: str) -> None:
        """Show the next part of an answer."""
        ...

    def end(self, stopped: bool = False) -> None:
        """End the answers."""
        ...

    def signal(self, signal: Signal, follow_up: str) -> None:
        """Show an answer coloured by its signal."""
        ...


def options_of(settings: "ChatSettings") -> dict[str, Any]:
    """Return what to send with each request: the sampling options and the chat template's settings that are set."""
    options = {"temperature": settings.temperature, "max_tokens": settings.max_completion_tokens}
    given = {name: value for name, value in options.items() if value is not None}
    words = (word.partition("=") for word in shlex.split(settings.template_settings))
    template = {name: _value(text) for name, _, text in words}
    return given | ({"chat_template_kwargs": template} if template else {})


def _value(text: str) -> Any:
    """Return the value that a text of JSON stands for, such as false; any other text is itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


async def base_name(client: ChatClient, settings: "ChatSettings", live: str) -> str:
    """Return the name of the model before: BASE_NAME, MODEL if it is served, else another one that is.

    Raises SettingError if the server has one model alone, ServerError if it does not list its models.
    """
    if settings.base_name:
        return settings.base_name
    try:
        served = await client.models()
    except ServerError as error:
        raise ServerError(f"{error} The model before can also be given, as BASE_NAME.") from None
    others = [name for name in served if name != live]
    if settings.model in others:
        return str(settings.model)
    if not others:
        known = f"={settings.model}" if settings.model else ", the name by which the server knows it"
        advice = f"Start the chat with BASE_NAME{known}, for the model before."
        raise SettingError(f"the server lists no model but {live}. {advice}")
    return others[0]


class ChatSession:
    """One chat over one server. `line` does what a line says, and never raises what a user can cause."""

    def __init__(
        self, client: ChatClient, settings: "ChatSettings", screen: Screen, scorer: SignalScorer | None = None
    ) -> None:
        self.client, self.settings, self.screen = client, settings, screen
        self.scorer = scorer or SignalScorer(settings)
        self.conversation = Conversation(settings.system_prompt)
        self.live = settings.served_name
        self.base: str | None = None
        self.comparing = self.colouring = False
        self._answering: asyncio.Task[list[ServerError]] | None = None
        self._version = ""
        self.failed: ServerError | None = None  # the last message that the server did not answer

    async def line(self, line: str) -> bool:
        """Do what a line says and return whether the chat goes on."""
        try:
            command = commands.parse(line.strip())
            if command is None:
                text = commands.message_of(line.strip())
                if text:
                    await self._message(text, self.comparing)
                return True
            return await self._do(command)
        except SdpoError as error:
            self.screen.error(str(error))
            if isinstance(error, ServerError):
                self.failed = error
            return True

    def stop(self) -> bool:
        """Stop the answer that is coming and return whether there was one."""
        if self._answering is None:
            return False
        self._answering.cancel()
        return True

    async def _do(self, command: Command) -> bool:
        if command.name == "quit":
            return False
        actions: dict[str, Callable[[str], Awaitable[None]]] = {
            "compare": self._compare,
            "signal": self._signal,
            "rate": self._rate,
            "new": self._new,
            "system": self._system,
            "model": self._model,
            "help": self._help,
        }
        await actions[command.name](command.argument)
        return True

    # Messages

    async def _message(self, text: str, compare: bool) -> None:
        """Send a message; the answer of the live model is added to the conversation, that of the base is shown only."""
        names = [self.live]
        if compare:
            names.insert(0, await self._base())
        conversation = self.conversation
        conversation.ask(text)
        answers = [Answer() for _ in names]
        self.screen.begin(names)
        self._answering = asyncio.ensure_future(self._stream(names, answers))
        stopped, problems = False, list[ServerError]()
        try:
            problems = await self._answering
        except asyncio.CancelledError:
            stopped = True
        self._answering = None
        self.screen.end(stopped)
        if answers[-1].cut_off:
            self.screen.say(answers[-1].cut_off)
        if answers[-1].version and answers[-1].version != self._version:
            self._version = answers[-1].version
            self.screen.say(f"answered by {self._version}")
        if answers[-1].text.strip():
            conversation.add(answers[-1])
        else:
            conversation.take_back()  # no answer: the message can be sent again
        for problem in problems[:-1]:
            self.screen.error(str(problem))
        if problems:
            raise problems[-1]
        if self.colouring and conversation.last_interaction:
            await self._show_signal()

    async def _stream(self, names: list[str], answers: list[Answer]) -> list[ServerError]:
        """Ask all models at once and return what went wrong, once for all; one that fails does not stop the other.

        The base is asked beside the conversation: nothing is learned from an answer that was only shown.
        """

        async def one(index: int) -> None:
            beside, name = index < len(names) - 1, self.conversation.id
            parts = self.client.answer(names[index], self.conversation.messages, name, answers[index], beside)
            try:
                async for text in parts:
                    self.screen.part(index, text)
            finally:
                await parts.aclose()  # type: ignore[attr-defined]  # an async generator

        tasks = [asyncio.ensure_future(one(index)) for index in range(len(names))]
        try:
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException) and not isinstance(error, ServerError):
                raise error
        problems = {str(error): error for error in ended if isinstance(error, ServerError)}
        return list(problems.values())

    async def _base(self) -> str:
        if self.base is None:
            self.base = await base_name(self.client, self.settings, self.live)
        return self.base

    # Commands

    async def _compare(self, argument: str) -> None:
        if argument in ("", "on", "off"):
            self.comparing = commands.switch(argument, self.comparing)
            if self.comparing:
                try:
                    await self._base()
                except SdpoError:
                    self.comparing = False
                    raise
            state = f"on: {self.base} beside {self.live}" if self.comparing else "off"
            return self.screen.say(f"compare is {state}")
        await self._message(argument, True)

    async def _signal(self, argument: str) -> None:
        if argument:
            wanted = commands.switch(argument, self.colouring)
            if wanted and not self.scorer.usable:
                raise SettingError(NO_MODEL)
            self.colouring = wanted
            return self.screen.say(f"signal is {'on: after each of your follow-ups' if wanted else 'off'}")
        await self._show_signal()

    async def _show_signal(self) -> None:
        interaction = self.conversation.last_interaction
        if not self.scorer.usable:
            raise SettingError(NO_MODEL)
        if interaction is None:
            raise SettingError(NO_FOLLOW_UP)
        if not self.scorer.loaded:
            self.screen.say(f"loading {self.settings.model}")
        signal = await asyncio.to_thread(self.scorer.score, interaction)
        self.screen.signal(signal, interaction.follow_up)

    async def _rate(self, argument: str) -> None:
        rating, comment = commands.rating_of(argument)
        last = self.conversation.last_answer
        if last is None:
            raise SettingError("there is no answer to rate yet.")
        index, answer = last
        await self.client.rate(answer, index, rating, comment)
        self.screen.say("rated: thank you")

    async def _new(self, argument: str) -> None:
        self.conversation = Conversation(self.conversation.system)
        self.screen.say("a new conversation")

    async def _system(self, argument: str) -> None:
        if not argument:
            return self.screen.say(f"system message: {self.conversation.system or 'none'}")
        self.conversation = Conversation(None if argument == "off" else argument)
        self.screen.say(f"system message: {self.conversation.system or 'none'}; a new conversation")

    async def _model(self, argument: str) -> None:
        served = await self.client.models()
        if not argument:
            listed = ", ".join(f"{name} (this one)" if name == self.live else name for name in served)
            return self.screen.say(f"talking to {self.live}; served: {listed or 'none'}")
        if served and argument not in served and argument != self.settings.served_name:
            raise SettingError(f"{argument} is not served.{nearest(argument, served)} /model lists the served ones.")
        self.live, self.base = argument, None
        self.screen.say(f"talking to {argument}")

    async def _help(self, argument: str) -> None:
        self.screen.say(commands.help_text())
