"""The chat as a subprocess, on a pipe or on a terminal, in front of a server that streams."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from tests.commands import ROOT, clean_environment


def chat_command(url: str, *flags: str) -> list[str]:
    return [sys.executable, "-m", "jobs.chat", "--gateway-url", url, *flags]


def piped(url: str, *lines: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    """Return what a chat whose standard input has these lines printed."""
    return subprocess.run(
        chat_command(url, *flags), cwd=ROOT, env=clean_environment(), input="".join(f"{line}\n" for line in lines),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


class Terminal:
    """A chat on a terminal of 100 columns. Use as a context manager."""

    def __init__(self, url: str, *flags: str, home: Path) -> None:
        self.command, self.home, self.raw = chat_command(url, *flags), home, b""

    def __enter__(self) -> "Terminal":
        self._end, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        terminal = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "PROMPT_TOOLKIT_NO_CPR": "1"}
        environment = clean_environment(HOME=str(self.home), **terminal)
        self.process = subprocess.Popen(
            self.command, cwd=ROOT, env=environment, stdin=other, stdout=other, stderr=other, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(other)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self._end)

    @property
    def text(self) -> str:
        """What was printed so far, without control sequences."""
        text = re.sub(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[()][A-B0]|\x1b[=>]", "", self.raw.decode("utf-8", "replace"))
        return text.replace("\r", "")

    def type(self, keys: str) -> None:
        os.write(self._end, keys.encode())

    def wait_for(self, text: str, seconds: float = 30, after: int = 0) -> None:
        """Wait until this text is printed, `after` so many characters that were there before."""
        end = time.monotonic() + seconds
        while text not in self.text[after:]:
            assert time.monotonic() < end, f"no {text!r} in {self.text!r}"
            self._read(0.1)

    def prompted(self, seconds: float = 30) -> None:
        """Wait until the chat waits for a line: what is typed before goes to a terminal that is not ready for it."""
        end = time.monotonic() + seconds
        while not self.text.rstrip().endswith("you:"):
            assert time.monotonic() < end, f"no prompt in {self.text!r}"
            self._read(0.1)

    def ended(self, seconds: float = 20) -> int:
        """Return the exit code."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            self._read(0.1)
        assert self.process.returncode is not None, self.text
        return self.process.returncode

    def _read(self, seconds: float) -> None:
        if select.select([self._end], [], [], seconds)[0]:
            try:
                self.raw += os.read(self._end, 1 << 16)
            except OSError:
                time.sleep(seconds)  # the chat has closed its end
