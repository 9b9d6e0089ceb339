"""A headless Chromium for the tests of pages, spoken to over a pipe; tests skip where there is none."""

import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")


class Page:
    """A page opened from a file at one width. Use as a context manager."""

    def __init__(self, path: Path, width: int, height: int = 900, folder: Path | None = None) -> None:
        self.path, self.width, self.height, self.folder = path, width, height, folder or path.parent
        self._numbers, self._session, self._buffer, self.events = itertools.count(1), None, b"", []

    def __enter__(self) -> "Page":
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        # Chromium reads from 3 and writes to 4; high numbers keep the shell from closing one while it moves the other.
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (theirs_in, theirs_out)]
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"]
        command = [CHROMIUM, *flags, f"--user-data-dir={self.folder / 'browser'}"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{high[0]} 4>&{high[1]}', "bash", *command],
            pass_fds=high, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (theirs_in, theirs_out, *high):
            os.close(end)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        size = {"width": self.width, "height": self.height, "deviceScaleFactor": 1, "mobile": self.width < 700}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        for part in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{part}.enable")
        self.call("Page.navigate", url=self.path.resolve().as_uri())
        self.wait_for("document.readyState === 'complete'")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **parameters) -> dict:
        """Return the result of a command of the DevTools protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (reply := self._read()).get("id") != number:
            self.events.append(reply)
        assert "error" not in reply, reply
        return reply["result"]

    def ask(self, expression: str):
        """Return the value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.ask(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """Bring an element into view and click into its middle, as a tap does."""
        x, y = self.ask(
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const b = e.getClientRects()[0];"
            f" return [b.left + b.width / 2, b.top + b.height / 2]; }})(document.querySelector({json.dumps(selector)}))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def complaints(self) -> list:
        """Return what the page logged as an error, and every address but the file's own that it asked for."""
        found = []
        for event in self.events:
            method, what = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown" or (
                method == "Log.entryAdded" and what["entry"]["level"] == "error"
            ):
                found.append(what)
            if method == "Network.requestWillBeSent" and not what["request"]["url"].startswith(("file:", "data:")):
                found.append(what["request"]["url"])
        return found

    def _read(self) -> dict:
        while b"\0" not in self._buffer:
            assert select.select([self._from], [], [], 120)[0], "the browser says nothing"
            part = os.read(self._from, 1 << 20)
            assert part, "the browser is gone"
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)


def opened(path: Path) -> str:
    """Return the page's elements as they are once its script has run, opened from its file."""
    with Page(path, 1280) as page:
        return page.ask("document.documentElement.outerHTML")


def asked(path: Path, width: int, script: str):
    """Return what the script returns in a window of that width: `page` is the page's document.

    `choose(id, value, kind="change")` sets a control and tells the page.
    """
    choose = """(id, value, kind = "change") => {
        const control = document.getElementById(id);
        control.value = value;
        control.dispatchEvent(new Event(kind, { bubbles: true }));
    }"""
    with Page(path, width) as window:
        return window.ask(f"(() => {{ const page = document; const choose = {choose}; {script} }})()")
