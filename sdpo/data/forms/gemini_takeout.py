"""Gemini in Google's Takeout: an activity per question, with the answer in HTML; conversations are not named."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

from sdpo.data.conversation import MEDIA, Conversation, Dropped, SourceMessage
from sdpo.data.forms import Form, Piece
from sdpo.data.messages import content_of, message
from sdpo.data.times import moment, time_of

MINUTES = 10
NOTE = f"questions at most {MINUTES} minutes apart, taken for one conversation"
_PROMPTED = re.compile(r"\s*(?:prompted|asked|said)\s+", re.IGNORECASE)
_BLOCKS = {"p", "div", "ul", "ol", "pre", "h1", "h2", "h3", "h4", "h5", "h6", "table", "tr", "blockquote"}


def _matches(row: dict) -> bool:
    products = row.get("products")
    header = str(row.get("header")) + " ".join(str(one) for one in (products if isinstance(products, list) else []))
    return "title" in row and "time" in row and any(name in header for name in ("Gemini", "Bard"))


def _read(row: dict, name: str) -> Piece | Dropped:
    title, at = row.get("title"), moment(row.get("time"))
    if at is None:
        return Dropped("an order or time that cannot be read")
    title = title if isinstance(title, str) else ""
    prompted = _PROMPTED.match(title)
    if prompted is None:
        return Dropped("an activity that is no question")
    question, answer = content_of(title[prompted.end() :]), content_of(_text(row.get("safeHtmlItem")))
    if isinstance(question, Dropped) or isinstance(answer, Dropped):
        return Dropped("a message that is not text")
    files = bool(row.get("attachedFiles") or row.get("imageFile"))
    question = question._replace(media=files, missing="" if question.text else MEDIA)
    messages = [*message("user", question), *message("assistant", answer)]
    return Piece("activity", {"at": at, "time": time_of(row.get("time")), "messages": [list(one) for one in messages]})


def _join(pieces: list[Piece]) -> Iterator[Conversation | Dropped]:
    ordered = sorted(pieces, key=lambda piece: piece.value["at"])
    group: list[Piece] = []
    for piece in ordered:
        if group and piece.value["at"] - group[-1].value["at"] > 60 * MINUTES:
            yield _conversation(group)
            group = []
        group.append(piece)
    yield _conversation(group)


def _conversation(group: list[Piece]) -> Conversation:
    messages = [SourceMessage(*one) for piece in group for one in piece.value["messages"]]
    when = group[0].value["time"]
    return Conversation(f"gemini-{when}", messages, "Gemini", when, rows=len(group), note=NOTE)


def _text(items: Any) -> str:
    parts = []
    for item in items if isinstance(items, list) else []:
        html = item.get("html") if isinstance(item, dict) else None
        if isinstance(html, str):
            reader = _Reader()
            reader.feed(html)
            reader.close()
            parts.append(reader.text())
    return "\n\n".join(parts)


class _Reader(HTMLParser):
    """The text of HTML, with a blank line between blocks and a dash before the items of a list."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._parts: list[str] = []
        self._code = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._code += tag == "pre"
        self._parts.append({"br": "\n", "li": "\n- ", "td": " ", "th": " "}.get(tag, "\n\n" if tag in _BLOCKS else ""))

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag == "pre"
        self._parts.append("\n\n" if tag in _BLOCKS else "")

    def handle_data(self, data: str) -> None:
        self._parts.append(data if self._code > 0 else re.sub(r"\s+", " ", data))

    def text(self) -> str:
        lines = [line.rstrip() if self._code else line.strip(" ") for line in "".join(self._parts).split("\n")]
        return re.sub(r"\n{3,}", "\n\n", re.sub(r"\n\n(?=- )", "\n", "\n".join(lines))).strip()


FORM = Form("Gemini Takeout", _matches, _read, _join)
