"""How many list items an answer has: in Markdown, with other bullets, or numbered within a line."""

import re
from collections.abc import Sequence

from sdpo.english.emojis import emojis
from sdpo.english.markdown import GAP, Block, Markdown, has_word, read_markdown

_BULLET = re.compile(r"\s*[•◦▪‣●○]\s*(?=\S)")
_SOFT_BULLET = re.compile(r"\s*[–▫▸►➤✓✔✗✘☐☑☒→]\s+(?=\S)")  # a bullet only where there are several
_CHECKBOX = re.compile(r"\s*\[[ xX]\]\s+\S")
_SEQUENCES = (("1", "2"), ("a", "b"), ("A", "B"), ("i", "ii"), ("I", "II"))
_LINE_LABEL = re.compile(
    r"\W{0,4}(?P<name>[A-Z][a-z]+ )?(?P<label>\d{1,2}|[a-zA-Z]|ii|II)"
    r"(?:(?(name)\s?[.):–-]|(?:(?<=\d)\s?[.):–-]|[.)]))(?:\s|$))"  # "A: Hello" is somebody speaking
)
_NAMED_LABEL = re.compile(r"\b(?P<name>[A-Z][a-z]+) (?P<label>\d{1,2}):\s")
_BRACKET_LABEL = re.compile(r"(?P<open>(?<!\w)\()?(?<![\w.])(?P<label>\d{1,2}|[a-zA-Z]|ii|II)\)\s+(?=\S)")
_FIRST = re.compile(r"(?:^|[:;.!?,–—-]\s+)1\.\s+(?=\S)")
_SECOND = re.compile(r"\s2\.\s+(?=\S)")
_ONLY_JOINING = re.compile(r"\W*(?:and|or|to|through)?\W*")
_SIGNATURE_WORDS = 3
_FIRST_YEAR = 1000  # "1984. That was the year" begins no list


def count_items(text: str) -> int:
    """Return how many list items a reader sees; exact up to one, at least two where there are more."""
    markdown = read_markdown(text)
    items = _markdown_items(markdown)
    if items > 1:
        return items
    blocks = [block for block in markdown.blocks if block.kind not in ("code", "rule")]
    lines = [line for block in blocks for line in block.text.splitlines() if has_word(line)]
    texts = [" ".join(block.text.split()) for block in blocks if block.kind != "indented"]
    return max(items, _line_items(lines), *(_inline_items(part) for part in texts), 0, 0)


def _markdown_items(markdown: Markdown) -> int:
    items = [(item, start) for item, start in markdown.items if start < _FIRST_YEAR]
    if len(items) == 1:
        item, start = items[0]
        # One dash and a name at the very end sign a letter; a list does not begin with a later number.
        last = markdown.blocks[-1].text == item
        if start > 1 or (start == 0 and last and _signs(item, markdown.blocks)):
            return 0
    return len(items)


def _signs(item: str, blocks: Sequence[Block]) -> bool:
    return len(item.split()) <= _SIGNATURE_WORDS and item[:1].isupper() and item[-1:].isalpha() and len(blocks) > 1


def _line_items(lines: Sequence[str]) -> int:
    bullets = sum(1 for line in lines if _BULLET.match(line))
    soft = sum(1 for line in lines if _SOFT_BULLET.match(line) or _CHECKBOX.match(line) or _begins_with_emoji(line))
    labels = [match.groupdict() for line in lines if (match := _LINE_LABEL.match(line))]
    named = {label["name"] for label in labels}
    in_order = any(_in_order([label["label"] for label in labels if label["name"] == name]) for name in named)
    # Within an indented block Markdown sees no list, but its reader does.
    plain = sum(1 for line in lines if re.match(r"\s*[-*+]\s+\S", line))
    return max(bullets, soft if soft > 1 else 0, 2 if in_order else 0, plain if plain > 1 else 0)


def _begins_with_emoji(line: str) -> bool:
    line = line.lstrip()
    return any(line.startswith(found) for found in emojis(line)[:1])


def _in_order(labels: Sequence[str]) -> bool:
    return any(first in labels and second in labels[labels.index(first) :] for first, second in _SEQUENCES)


def _inline_items(text: str) -> int:
    bullets = text.count("•")
    named: dict[str, list[str]] = {}
    for match in _NAMED_LABEL.finditer(text):
        named.setdefault(match["name"], []).append(match["label"])
    first = _FIRST.search(text)
    numbered = first is not None and _SECOND.search(text, first.end()) is not None
    in_order = numbered or any(map(_in_order, named.values())) or _bracketed(text)
    return max(bullets if bullets > 1 else 0, 2 if in_order else 0)


def _bracketed(text: str) -> bool:
    """Return whether a text counts "1) ... 2) ..." or "(a) ... (b) ..."; a mere reference to (1) and (2) does not."""
    found = [match for match in _BRACKET_LABEL.finditer(text) if match["open"] or _closed(text[: match.start()])]
    for first, second in _SEQUENCES:
        starts = [match.end() for match in found if match["label"] == first]
        ends = [match.start() for match in found if match["label"] == second]
        if any(_holds_an_item(text[start:end]) for start in starts[:1] for end in ends if end > start):
            return True
    return False


def _closed(text: str) -> bool:
    return text.count("(") <= text.count(")")


def _holds_an_item(text: str) -> bool:
    return (has_word(text) or GAP in text) and not _ONLY_JOINING.fullmatch(text)
