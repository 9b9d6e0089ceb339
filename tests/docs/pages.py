"""The pages of the documentation, their command blocks and their links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from tests.commands import ROOT

PYTHON_API = ROOT / "docs" / "reference" / "api.md"
SHELLS = {"bash", "sh", "console"}
_MARK = re.compile(r"<!-- (not run|run by): (.+?) -->", re.S)


def pages() -> list[Path]:
    """Return the README and all pages of the documentation, but for the one that a build writes from docstrings."""
    found = (ROOT / "docs").rglob("*.md")
    return [ROOT / "README.md", *sorted(path for path in found if "_build" not in path.parts and path != PYTHON_API)]


@dataclass(frozen=True)
class Block:
    """A block of commands. `mark` is "not run" or "run by", with a reason or the tests, or "" for none."""

    page: Path
    line: int
    text: str
    fenced: bool
    mark: str = ""
    why: str = ""

    @property
    def name(self) -> str:
        """The block's place, for messages."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of commands of a page."""
    before = None
    for token in MarkdownIt("commonmark").parse(page.read_text("utf-8")):
        line = token.map[0] + 1 if token.map else 0
        fenced = token.type == "fence" and token.info.strip() in SHELLS
        if fenced or token.type == "code_block":
            mark = _MARK.fullmatch(before.content.strip()) if before is not None else None
            yield Block(page, line, token.content, fenced, *(mark.groups() if mark else ()))
        before = token if token.type == "html_block" else None


def links(page: Path) -> Iterator[str]:
    """Yield the addresses of a page's links and pictures."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8")):
        for child in token.children or ():
            target = child.attrs.get("href" if child.type == "link_open" else "src")
            if target:
                yield str(target)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page as GitHub and MyST make them: of its headings, and those that are given."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.S)
    headings = [re.sub(r"[`*]|\]\([^)]*\)|\[", "", line) for line in re.findall(r"^#+ (.+)$", text, re.M)]
    made = {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r"^\(([\w-]+)\)=$", text, re.M))
