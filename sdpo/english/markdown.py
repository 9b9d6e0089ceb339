"""An answer as its reader sees it: blocks of text without markup, and which formatting stands in it.

Markdown is read by a parser, so that a star in a formula or a hash tag is not taken for formatting.
"""

import re
import unicodedata
from dataclasses import dataclass, field
from functools import lru_cache

from markdown_it import MarkdownIt
from markdown_it.token import Token

GAP = "\N{OBJECT REPLACEMENT CHARACTER}"  # stands for what was taken out of a text: code, a picture, a quotation
CODE = ("code", "indented")  # kinds of blocks
_PARSER = MarkdownIt("commonmark").enable("table")
_WORD = re.compile(r"[^\W_]+(?:['’‐‑_-][^\W_]+|(?<=\d)[.,:]\d+)*")
_UNSPACED = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
_LINK = re.compile(r"\[([^][\n]*)\]\([^()\s]*(?:\([^()\s]*\)[^()\s]*)?\)")
_MARKER = re.compile(r"^[ \t>]*(?:[-*+•]|\(?\d{1,3}[.)])[ \t]+", re.MULTILINE)
_FENCE = re.compile(r"^[ \t>]*(?:`{3,}[^`\n]*|~{3,}.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A paragraph, heading, table cell, rule or piece of code; `text` has no markup, and GAP for inline code."""

    kind: str  # paragraph, heading, cell, rule, code (a fence) or indented
    text: str
    quoted: bool = False  # in a block quotation


@dataclass
class Markdown:
    """What stands in an answer. The numbers count headings, bold and italic spans, tables and code fences."""

    blocks: list[Block] = field(default_factory=list)
    items: list[tuple[str, int]] = field(default_factory=list)  # list items: text, and start of the list (0: bullets)
    headings: int = 0
    bold: int = 0
    italic: int = 0
    tables: int = 0
    fences: int = 0


@lru_cache(maxsize=4096)
def read_markdown(text: str) -> Markdown:
    """Return the answer's blocks and formatting. A fence that is never closed goes on to the end."""
    found = Markdown()
    kinds: list[str] = []  # the open containers
    starts: list[int] = []  # the open lists
    items: list[list[str]] = []  # the texts of the open list items
    for token in _PARSER.parse(with_plain_line_ends(text)):
        name, _, side = token.type.rpartition("_")
        if side == "open":
            kinds.append(name)
            if name in ("bullet_list", "ordered_list"):
                starts.append(int(token.attrs.get("start", 1)) if name == "ordered_list" else 0)
            elif name == "list_item":
                items.append([])
            found.tables += name == "table"
        elif side == "close":
            kinds.pop()
            if name == "list_item":
                item = " ".join(items.pop())
                if has_word(item):
                    found.items.append((item, starts[-1]))
            elif name in ("bullet_list", "ordered_list"):
                starts.pop()
        else:
            block = _block(token, kinds)
            found.blocks.append(block)
            if items:
                items[-1].append(block.text)
            _count(found, token, block)
    return found


def _block(token: Token, kinds: list[str]) -> Block:
    quoted = "blockquote" in kinds
    if token.type == "inline":
        kind = kinds[-1] if kinds else "paragraph"
        return Block({"th": "cell", "td": "cell"}.get(kind, kind), _plain(token.children or []), quoted)
    kind = {"fence": "code", "code_block": "indented", "hr": "rule"}.get(token.type, "paragraph")
    return Block(kind, "" if kind == "rule" else token.content, quoted)


def _plain(children: list[Token]) -> str:
    parts = []
    for child in children:
        if child.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        elif child.type in ("code_inline", "image"):
            parts.append(GAP)
        else:
            parts.append(child.content)
    return "".join(parts)


def _count(found: Markdown, token: Token, block: Block) -> None:
    found.headings += block.kind == "heading" and has_word(block.text)
    found.fences += block.kind == "code"
    words = {"strong": False, "em": False}  # whether a span that is open has had a word so far
    for child in token.children or []:
        name, _, side = child.type.rpartition("_")
        if side == "open" and name in words:
            words[name] = False
        elif side == "close" and name in words:
            found.bold += name == "strong" and words[name]
            found.italic += name == "em" and words[name]
        elif has_word(child.content):
            words = dict.fromkeys(words, True)


def with_plain_line_ends(text: str) -> str:
    """Return the text with every line end as one line feed."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def has_word(text: str) -> bool:
    """Return whether a text has a letter or a digit of any script."""
    return any(unicodedata.category(char)[0] in "LN" for char in text)


def count_words(text: str) -> int:
    """Return how many words a reader counts: list markers, fences and links' addresses are none, hyphenated words one.

    In scripts without spaces each character counts.
    """
    text = _LINK.sub(r"\1", _MARKER.sub("", _FENCE.sub("", with_plain_line_ends(text))))
    unspaced = len(_UNSPACED.findall(text))
    return unspaced + len(_WORD.findall(_UNSPACED.sub(" ", text)))
