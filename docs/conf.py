"""Configuration of the documentation site: `make docs` builds it into docs/_build, offline."""

import sys
from fnmatch import fnmatch
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from docs import python_api  # noqa: E402 (after the path is set)

project = "SDPO from user interactions"
copyright = "The contributors to SDPO from user interactions"
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = project
html_copy_source = False
myst_heading_anchors = 4

# Not in the repository: it changes with every docstring.
python_api.write(ROOT / "docs" / "reference" / "api.md")


def complete(app: Sphinx, name: str, source: list[str]) -> None:
    """Leave out the index's patterns that no page has the name of, and list pages that it does not know under More."""
    if name != "index":
        return
    lines = source[0].splitlines()
    kept = [line for line in lines if not line.endswith("*") or any(app.srcdir.glob(f"{line}.md"))]
    patterns = [line for line in kept if not line.startswith((":", "`", "#"))]
    pages = sorted(path.stem for path in app.srcdir.glob("*.md") if path.stem != "index")
    more = [page for page in pages if not any(fnmatch(page, pattern) for pattern in patterns)]
    if more:
        kept += ["", "```{toctree}", ":caption: More", ":maxdepth: 1", "", *more, "```"]
    source[0] = "\n".join(kept)


def setup(app: Sphinx) -> None:
    """Register with Sphinx."""
    app.connect("source-read", complete)
