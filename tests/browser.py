"""A headless Chromium for the tests of pages, controlled over a pipe. Tests are skipped without one."""

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
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


class Page:
    """A page opened from a file, or from a server by its address, at one width. Use as a context manager.

    A page from a server needs a `folder` for the browser's own files.
    """

    def __init__(self, path: Path | str, width: int, height: int = 900, folder: Path | None = None) -> None:
        self.url = path if isinstance(path, str) else path.resolve().as_uri()
        self.width, self.height, self.folder = width, height, folder or Path(path).parent
        self._numbers, self._session, self._buffer, self.events = itertools.count(1), None, b"", []

    def __enter__(self) -> "Page":
        browser_in, self._to = os.pipe()
        self._from, browser_out = os.pipe()
        # Chromium reads from descriptor 3 and writes to 4. High numbers keep the shell from overwriting one of them.
        high = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (browser_in, browser_out)]
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"]
        command = [CHROMIUM, *flags, f"--user-data-dir={self.folder / 'browser'}"]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{high[0]} 4>&{high[1]}', "bash", *command],
            pass_fds=high, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (browser_in, browser_out, *high):
            os.close(end)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        size = {"width": self.width, "height": self.height, "deviceScaleFactor": 1, "mobile": self.width < 700}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        for part in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{part}.enable")
        self.call("Page.navigate", url=self.url)
        self.wait_for("document.readyState === 'complete'")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **parameters) -> dict:
        """Send a command of the DevTools protocol and return its result."""
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
        reply = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.ask(expression):
            assert time.monotonic() < end, expression
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """Scroll an element into view and click its centre, as a tap does."""
        x, y = self.ask(
            f"(e => {{ e.scrollIntoView({{block: 'center'}}); const b = e.getClientRects()[0];"
            f" return [b.left + b.width / 2, b.top + b.height / 2]; }})(document.querySelector({json.dumps(selector)}))"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press a key where the focus is: a named one, or a character."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
        text = {"text": {"Enter": "\r"}.get(key, key)} if key == "Enter" or len(key) == 1 else {}
        code = {"code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes[key]} if key in codes else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **code, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    def write(self, text: str) -> None:
        """Write a text where the focus is."""
        self.call("Input.insertText", text=text)

    def errors(self) -> list:
        """Return the errors that the page logged, and the URLs that it requested other than its own, files and data."""
        errors: list = []
        own = ("file:", "data:", *([self.url] if self.url.startswith("http") else []))
        for event in self.events:
            method, what = event.get("method"), event.get("params", {})
            if method == "Runtime.exceptionThrown" or (
                method == "Log.entryAdded" and what["entry"]["level"] == "error"
            ):
                errors.append(what)
            if method == "Network.requestWillBeSent" and not what["request"]["url"].startswith(own):
                errors.append(what["request"]["url"])
        return errors

    def _read(self) -> dict:
        while b"\0" not in self._buffer:
            assert select.select([self._from], [], [], 120)[0], "the browser does not respond"
            part = os.read(self._from, 1 << 20)
            assert part, "the browser has exited"
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)


def rendered_html(path: Path) -> str:
    """Return the HTML of the page, opened from its file, after its script has run."""
    with Page(path, 1280) as page:
        return page.ask("document.documentElement.outerHTML")


def run_in_page(path: Path, width: int, script: str):
    """Return the result of the script in a window of that width; in it `page` is the page's document.

    `choose(id, value, kind="change")` sets a control and dispatches the event.
    """
    choose = """(id, value, kind = "change") => {
        const control = document.getElementById(id);
        control.value = value;
        control.dispatchEvent(new Event(kind, { bubbles: true }));
    }"""
    with Page(path, width) as window:
        return window.ask(f"(() => {{ const page = document; const choose = {choose}; {script} }})()")
