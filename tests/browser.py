"""A page in headless Chromium: loaded from a file, or inside a frame of a given width and asked questions there."""

import http.server
import json
import re
import shutil
import subprocess
import tempfile
import threading
from functools import partial
from html import unescape
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, _NAMES)), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")

_FRAME = """<!doctype html><meta charset="utf-8"><style>body { margin: 0 }</style>
<iframe id="page" width="%d" height="900" style="border: 0" src="%s"></iframe><pre id="found"></pre>
<script>
document.getElementById("page").addEventListener("load", () => {
  const page = document.getElementById("page").contentDocument;
  const choose = (id, value, kind = "change") => {
    const control = page.getElementById(id);
    control.value = value;
    control.dispatchEvent(new Event(kind, { bubbles: true }));
  };
  let found;
  try { found = (() => { %s })(); } catch (error) { found = String(error); }
  document.getElementById("found").textContent = JSON.stringify(found);
  document.title = "done";
});
</script>"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def chromium(*arguments: str) -> str:
    """Run Chromium headless and return what it printed; it may reach nothing but this machine."""
    with tempfile.TemporaryDirectory() as profile:
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += [f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        command += ["--virtual-time-budget=20000", "--hide-scrollbars", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def opened(path: Path) -> str:
    """Return the page's elements as they are once its script has run, opened from its file."""
    return chromium("--dump-dom", path.resolve().as_uri())


def asked(path: Path, width: int, script: str):
    """Return what the script returns inside a window of that width: `page` is the page's document.

    `choose(id, value, kind="change")` sets a control and tells the page.
    """
    frame = path.with_name(f"frame-{width}.html")
    frame.write_text(_FRAME % (width, path.name, script), "utf-8")
    handler = partial(_Quiet, directory=str(path.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        shown = chromium("--dump-dom", f"http://127.0.0.1:{server.server_address[1]}/{frame.name}")
        server.shutdown()
    return json.loads(unescape(re.search(r'<pre id="found">(.*?)</pre>', shown, re.S)[1]))
