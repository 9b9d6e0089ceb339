"""Writes HTML pages as single self-contained files that load nothing and send nothing.

A body is `markupsafe.Markup`: `Markup("<p>{}</p>").format(text)` escapes its arguments, and a plain string
is rejected. Scripts read their data from a JSON block and put text into the page with `textContent`.
"""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sdpo.runtime.files import replace_file

# The style of all pages: readable in light and dark mode, no horizontal scrolling at 390 pixels and wider.
STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --quiet: #595959; --line: #ccc; --panel: #f5f5f5;
  --blue: #005b96; --orange: #a84a00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #161616; --quiet: #a8a8a8; --line: #444;
  --panel: #222; --blue: #7cc0f0; --orange: #f0a060; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.1rem; margin: 1.5rem 0 .5rem; }
img, svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; display: block; max-width: 100%; overflow-x: auto; overflow-wrap: normal; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
select, input, button { font: inherit; max-width: 100%; }
"""

_PAGE = Markup("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
{script}
</body>
</html>
""")


def write_page(path: Path, title: str, body: Markup, style: str = "", script: str = "") -> Path:
    """Write the page atomically and return its path. Raises as `page_text` does."""
    # A lone surrogate, which a model's reply can contain, cannot be encoded in UTF-8.
    replace_file(path, page_text(title, body, style, script).encode("utf-8", "replace"))
    return path


def page_text(title: str, body: Markup, style: str = "", script: str = "", connect: bool = False) -> str:
    """Return a page.

    `style` and `script` are trusted and inserted unescaped, the style after `STYLE`. The page's content security
    policy allows only this script to run and only embedded images to load; with `connect` the script may also talk to
    the server that the page came from.
    Raises TypeError for a body that is not Markup, ValueError if the style or script would close its own element.
    """
    if not isinstance(body, Markup):
        raise TypeError("the body of a page must be Markup: Markup('<p>{}</p>').format(text)")
    if "</" in style or re.search(r"</script|<!--", script, re.IGNORECASE):
        raise ValueError("a style or script that contains the end tag of its own element cannot be put into a page")
    return _PAGE.format(
        policy=policy(script, connect),
        title=title,
        style=Markup(STYLE + style),
        body=body,
        script=Markup("<script>{}</script>").format(Markup(script)) if script else "",
    )


def data_block(name: str, value: Any) -> Markup:
    """Return a value as a JSON block, which `JSON.parse(document.getElementById(name).textContent)` reads."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":  # in JSON they occur only inside strings, where they can be escaped
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup('<script type="application/json" id="{}">{}</script>').format(name, Markup(text))


def policy(script: str, connect: bool = False) -> str:
    """Return the content security policy of a page with this script."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    run = f"'sha256-{digest}'" if script else "'none'"
    # Inline styles are safe: with nothing to load they can only change the appearance.
    rules = ["default-src 'none'", f"script-src {run}", "style-src 'unsafe-inline'", "img-src data:"]
    rules += ["connect-src 'self'"] if connect else []
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])
