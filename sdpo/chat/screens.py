"""Two screens of the chat: plain lines, for a pipe, and colours, for a terminal."""

import sys
import unicodedata
from typing import TextIO

from rich.columns import Columns
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from sdpo.chat.signal import Signal
from sdpo.errors import on_one_line
from sdpo.signal.cells import number_text, shown
from sdpo.signal.colours import colour, ink, mark, scale_labels

_ERROR = 400  # characters


# Categories of characters that a terminal may act on, or that turn the order of what follows around.
_ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Of these, line breaks and tabs are meant, and joiners hold emojis and letters of some scripts together.
_KEPT = "\n\t\u200c\u200d"


def printable(text: str) -> str:
    """Return a text without what a terminal acts on: others may have written it."""
    text = text.replace("\r\n", "\n")
    return "".join(char if char in _KEPT or unicodedata.category(char) not in _ACTING else "�" for char in text)


def _begun(texts: list[str], index: int, part: str) -> str:
    """Add a part to an answer and return what to show of it: no blank lines before the answer's first word."""
    part = part if texts[index] else part.lstrip()
    texts[index] += part
    return part


class PlainScreen:
    """Plain lines on a stream: no colours, no cursor movements; several answers come one after another."""

    def __init__(self, out: TextIO | None = None, errors: TextIO | None = None) -> None:
        self.out, self.errors = out or sys.stdout, errors or sys.stderr
        self._names: list[str] = []
        self._texts: list[str] = []

    def say(self, text: str) -> None:
        """Print a line about the chat itself."""
        self._print(f"{printable(text)}\n")

    def error(self, text: str) -> None:
        """Print one line on the stream of errors."""
        print(f"error: {on_one_line(text, _ERROR)}", file=self.errors, flush=True)

    def begin(self, names: list[str]) -> None:
        """Begin an answer: a single one is printed as it comes."""
        self._names, self._texts = names, [""] * len(names)
        if len(names) == 1:
            self._print(f"{names[0]}: ")

    def part(self, index: int, text: str) -> None:
        """Print the next part of a single answer, keep that of several."""
        text = _begun(self._texts, index, text)
        if len(self._names) == 1:
            self._print(printable(text))

    def end(self, stopped: bool = False) -> None:
        """End the line, or print the answers that were kept."""
        note = " (stopped)" if stopped else ""
        if len(self._names) == 1:
            return self._print(f"{note}\n")
        for name, text in zip(self._names, self._texts, strict=True):
            self._print(f"{name}: {printable(text)}{note}\n")

    def signal(self, signal: Signal, follow_up: str) -> None:
        """Print the tokens with their signal, those that hardly changed without."""
        self._print(f"signal of {on_one_line(follow_up, 80)!r}, mean |signal| {signal.size:.3f} nats:\n")
        parts = []
        for piece, value in zip(signal.tokens, signal.values, strict=True):
            number = f"[{number_text(value)}]" if mark(value, signal.limit) else ""
            parts.append(printable(shown(piece)) + number)
        self._print("".join(parts) + "\n")

    def _print(self, text: str) -> None:
        self.out.write(text.encode("utf-8", "replace").decode("utf-8"))
        self.out.flush()


class RichScreen:
    """Colours on a terminal; several answers side by side as they come."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._names: list[str] = []
        self._texts: list[str] = []
        self._live: Live | None = None

    def say(self, text: str) -> None:
        """Print a dim line about the chat itself."""
        self.console.print(Text(printable(text), style="dim"))

    def error(self, text: str) -> None:
        """Print one line."""
        self.console.print(Text(f"error: {on_one_line(text, _ERROR)}", style="bold red"))

    def begin(self, names: list[str]) -> None:
        """Begin an answer, or several side by side."""
        self._names, self._texts = names, [""] * len(names)
        if len(names) == 1:
            self.console.print(Text(f"{names[0]}: ", style="bold"), end="")
        else:
            self._live = Live(self._side_by_side(), console=self.console, refresh_per_second=8)
            self._live.start()

    def part(self, index: int, text: str) -> None:
        """Show the next part."""
        text = _begun(self._texts, index, text)
        if self._live is not None:
            self._live.update(self._side_by_side())
        else:
            self.console.print(Text(printable(text)), end="", soft_wrap=True)

    def end(self, stopped: bool = False) -> None:
        """End the answers."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self.console.print(Text(" (stopped)" if stopped else "", style="dim"))

    def signal(self, signal: Signal, follow_up: str) -> None:
        """Print the answer with every token on the colour of its signal, and the scale."""
        text = Text()
        for piece, value in zip(signal.tokens, signal.values, strict=True):
            text.append(printable(shown(piece)), style=_style(value, signal.limit))
            if piece.endswith("\n"):
                text.append("\n")
        self.console.print(text)
        scale = Text()
        for label, share in zip(scale_labels(signal.limit), (-1, -0.25, 0, 0.25, 1), strict=True):
            scale.append(f" {label} ", style=_style(share * signal.limit, signal.limit))
        scale.append(f"  nats, mean |signal| {signal.size:.3f}; overlined: more likely after your message, ")
        scale.append("underlined: less likely")
        self.console.print(scale)

    def _side_by_side(self) -> Columns:
        width = max(20, self.console.width // len(self._names) - 2)
        panels = [
            Panel(Text(printable(text)), title=Text(name), width=width)
            for name, text in zip(self._names, self._texts, strict=True)
        ]
        return Columns(panels, expand=False, equal=True)


def _style(value: float, limit: float) -> str:
    background = colour(value, limit)
    line = {"more": " overline", "less": " underline"}.get(mark(value, limit), "")
    return f"{ink(background)} on #{''.join(f'{part:02x}' for part in background)}{line}"
