"""The commands of the chat, and how a line is read as one."""

from dataclasses import dataclass

from sdpo.errors import SettingError, nearest

# Name -> what it takes, and what it does.
COMMANDS = {
    "compare": ("[on|off] or a message", "ask the model before and the live one, side by side"),
    "signal": ("[on|off]", "colour the answer before your last message by what that message says about it"),
    "rate": ("up|down [comment]", "rate the last answer"),
    "new": ("", "begin a new conversation"),
    "system": ("[text|off]", "set the system message, and begin a new conversation with it"),
    "model": ("[name]", "show the served models, or talk to another one"),
    "help": ("", "list the commands"),
    "quit": ("", "leave"),
}
RATINGS = {"up": 1, "down": -1}


@dataclass(frozen=True)
class Command:
    """A command with the rest of its line."""

    name: str
    argument: str


def parse(line: str) -> Command | None:
    """Return the command in a line, None for a message: one that begins with // is a message with one slash.

    Raises SettingError for an unknown command, with the nearest name.
    """
    if not line.startswith("/") or line.startswith("//"):
        return None
    name, _, argument = line[1:].partition(" ")
    if name.lower() in COMMANDS:
        return Command(name.lower(), argument.strip())
    hint = nearest(name, COMMANDS).replace("mean ", "mean /") or " See /help."
    raise SettingError(f"/{name} is no command.{hint} A message that begins with a slash is written with two.")


def message_of(line: str) -> str:
    """Return the message in a line that is no command."""
    return line[1:] if line.startswith("//") else line


def switch(argument: str, now: bool) -> bool:
    """Return what `on`, `off` or nothing, which changes over, makes of a switch. Raises SettingError for another."""
    if argument in ("", "on", "off"):
        return not now if not argument else argument == "on"
    raise SettingError(f"{argument} is neither on nor off.")


def rating_of(argument: str) -> tuple[int, str | None]:
    """Return the rating and the comment. Raises SettingError for another word than up or down."""
    word, _, comment = argument.partition(" ")
    if word not in RATINGS:
        raise SettingError("a rating is /rate up or /rate down, and a comment may follow.")
    return RATINGS[word], comment.strip() or None


def help_text() -> str:
    """Return the commands, one a line."""
    heads = [f"/{name} {takes}".strip() for name, (takes, _) in COMMANDS.items()]
    width = max(map(len, heads))
    lines = [f"  {head:{width}}  {does}" for head, (_, does) in zip(heads, COMMANDS.values(), strict=True)]
    return "\n".join(
        [*lines, "  Ctrl-C stops an answer, Ctrl-D leaves. A message that begins with a slash: two slashes."]
    )
