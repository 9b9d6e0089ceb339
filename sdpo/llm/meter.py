"""Counts requests and their cost, and enforces a cost limit."""

import json
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sdpo.errors import SettingError, one_line
from sdpo.llm.backend import Reply, Request

PRICES = Path(__file__).with_name("prices.json")

# Upper bounds for the tokens that a server adds to each message, and for a schema.
_MESSAGE_TOKENS, _SCHEMA_TOKENS = 32, 1000
_SNAPSHOT = re.compile(r"[-@]\d{8}$")


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens."""

    tokens_in: float
    tokens_out: float

    def of(self, tokens_in: int, tokens_out: int) -> float:
        """Return the cost of these token counts, in US dollars."""
        return (tokens_in * self.tokens_in + tokens_out * self.tokens_out) / 1e6


def read_prices(path: Path | None = None) -> dict[str, Price]:
    """Return model -> price from the file, or from the shipped one. Raises SettingError for an invalid file."""
    try:
        return {
            model: Price(float(row["in"]), float(row["out"]))
            for model, row in json.loads((path or PRICES).read_text("utf-8-sig")).items()
            if row["in"] >= 0 and row["out"] >= 0
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingError(
            f'PRICE_FILE {path} must contain {{"model": {{"in": 1.0, "out": 5.0}}}}, in dollars per million tokens '
            f"({type(error).__name__}: {one_line(error, 80)})."
        ) from None


def price_of(model: str, prices: Mapping[str, Price]) -> Price | None:
    """Return the price of the model, looked up by its name with and without a snapshot date; None if unknown."""
    return prices.get(model) or prices.get(_SNAPSHOT.sub("", model))


def price_for(model: str, price_file: Path | None, max_cost: float | None, charges: bool) -> Price | None:
    """Return the price of a model, None if it is unknown.

    Raises SettingError for an invalid file, and if the model's server `charges` and a limit cannot be kept without.
    """
    price = price_of(model, read_prices(price_file))
    if price is None and max_cost is not None and charges:
        raise SettingError(
            f"MAX_COST needs the price of {model}, which is unknown. Set PRICE_FILE to a file such as "
            '{"model": {"in": 1.0, "out": 5.0}}, in dollars per million tokens.'
        )
    return price


@dataclass
class Usage:
    """The requests so far.

    `requests` were sent, `cached` were answered from the cache; `retries` counts those of replies that arrived,
    `seconds` is the time spent waiting, `cost` is in US dollars and 0 without a price.
    """

    requests: int = 0
    failures: int = 0
    retries: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0
    cached: int = 0
    cost: float = 0.0


class Meter:
    """Adds up a client's usage. With a price and `max_cost`, `begin` refuses requests that could exceed that limit."""

    def __init__(self, price: Price | None = None, max_cost: float | None = None, paid: Iterable[Reply] = ()) -> None:
        self.price, self.max_cost = price, max_cost
        self.usage = Usage()
        self._in_flight = 0.0
        self._lock = threading.Lock()
        for reply in paid:
            self.usage.requests += 1
            self._add(reply, 0.0)

    def begin(self, request: Request) -> bool:
        """Return whether the request may be sent. If so, its highest cost is reserved until `end`."""
        with self._lock:
            highest_cost = self.highest_cost(request)
            if self.max_cost is not None and self.usage.cost + self._in_flight + highest_cost > self.max_cost:
                return False
            self._in_flight += highest_cost
            self.usage.requests += 1
            return True

    def end(self, request: Request, reply: Reply | None) -> None:
        """Count the reply to a request, None if it failed, and release the reserved cost."""
        with self._lock:
            highest_cost = self.highest_cost(request)
            self._in_flight -= highest_cost
            if reply is not None:
                self._add(reply, highest_cost)

    def highest_cost(self, request: Request) -> float:
        """Return the highest possible cost of a request: no tokenizer makes more tokens than there are bytes."""
        if self.price is None:
            return 0.0
        content = sum(len(message["content"].encode("utf-8", "replace")) for message in request.messages)
        overhead = _MESSAGE_TOKENS * len(request.messages) + (_SCHEMA_TOKENS if request.schema else 0)
        return self.price.of(content + overhead, request.max_tokens)

    def _add(self, reply: Reply, highest_cost: float) -> None:
        self.usage.retries += reply.retries
        self.usage.tokens_in += reply.tokens_in or 0
        self.usage.tokens_out += reply.tokens_out or 0
        if self.price is None:
            return
        if reply.tokens_in is None or reply.tokens_out is None:
            self.usage.cost += highest_cost
        else:
            self.usage.cost += self.price.of(reply.tokens_in, reply.tokens_out)
