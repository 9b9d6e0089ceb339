"""Configuration of the documentation site: `make docs` builds it into docs/_build, offline."""

import sys
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


def without_empty_patterns(app: Sphinx, name: str, source: list[str]) -> None:
    """Leave out the index's patterns that no page has the name of: Sphinx warns of them."""
    if name == "index":
        lines = source[0].splitlines()
        source[0] = "\n".join(line for line in lines if not line.endswith("*") or any(app.srcdir.glob(f"{line}.md")))


def setup(app: Sphinx) -> None:
    """Register with Sphinx."""
    app.connect("source-read", without_empty_patterns)
