"""An answer that is still arriving, on its way into the store: what is new of it, in pieces."""

import json
import re
from collections.abc import Iterable
from typing import Any

from sdpo.gateway.answer import Answer
from sdpo.gateway.exchanges import BROKEN, COMPLETE, Exchange

# A piece is written again while it grows, and is left alone from the end of a line on once it is this long.
_LONG = 160
_KEPT = 80  # characters at the end of a text that may be half of a private value
_BEGIN, _END = "-----BEGIN", re.compile(r"-----END[^-]*-----")  # of a key on several lines
_PLAIN = (".id", ".type", ".name", "role")


class Draft:
    """Gives the rows that an arriving answer adds to the store, for `Writer`."""

    def __init__(self, exchange: Exchange, answer: Answer) -> None:
        self._exchange, self._answer = exchange, answer
        self._begun = False
        self._settled: dict[str, tuple[int, int]] = {}  # channel -> start and number of its last piece

    def so_far(self, changed: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """Return the rows after these channels of the answer grew."""
        pieces = [piece for channel in changed for piece in self._pieces(channel)]
        return self._with_exchange({"pieces": pieces} if pieces else {})

    def finished(self, complete: bool) -> dict[str, list[dict[str, Any]]]:
        """Return the rows at the end of the answer, whether it is complete or was broken off."""
        answer = self._answer
        columns = self._exchange.answer_columns(
            answer.messages(), COMPLETE if complete else BROKEN, answer.finish_reason, answer.usage
        )
        return self._with_exchange({"finishes": [{"id": self._exchange.id, **columns}]})

    def _with_exchange(self, rows: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
        if not self._begun and rows:
            self._begun = True
            rows |= {"conversations": [self._exchange.conversation_row()], "exchanges": [self._exchange.row()]}
        return rows

    def _pieces(self, channel: str) -> Iterable[dict[str, Any]]:
        redact = None if channel.endswith(_PLAIN) else self._exchange.request.redact
        start, number = self._settled.get(channel, (0, 0))
        text = self._answer.channels[channel][start:]
        cut = settled_length(text)
        if cut:
            yield self._piece(channel, number, redact(text[:cut]) if redact else text[:cut])
            start, number = start + cut, number + 1
        if text[cut:]:
            yield self._piece(channel, number, redact.so_far(text[cut:]) if redact else text[cut:])
        self._settled[channel] = (start, number)

    def _piece(self, channel: str, number: int, text: str) -> dict[str, Any]:
        return {"exchange": self._exchange.id, "channel": channel, "number": number, "text": json.dumps(text)}


def settled_length(text: str) -> int:
    """Return how much of a growing text no private value can begin in that goes on after it; 0 for nothing yet."""
    if len(text) < _LONG:
        return 0
    within, cut = text[: len(text) - _KEPT], 0
    for end in ("\n", ". ", " " if len(text) > 10 * _LONG else "\n"):
        at = within.rfind(end)
        if at > 0:
            cut = at + len(end)
            break
    begin = text.find(_BEGIN)
    while 0 <= begin < cut:
        end_of_block = _END.search(text, begin)
        if end_of_block is None or end_of_block.end() > cut:
            return begin
        begin = text.find(_BEGIN, end_of_block.end())
    return cut
