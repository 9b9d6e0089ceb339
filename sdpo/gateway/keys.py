"""The keys of the gateway: made once, kept as hashes, with limits of their own."""

import hashlib
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError

from sdpo.errors import SettingError
from sdpo.gateway.schema import KEYS
from sdpo.gateway.store import Store

PREFIX = "sdpo-"
_FRESH_SECONDS = 2.0  # a withdrawn key stops working within this time


@dataclass(frozen=True)
class Key:
    """A key that is in force. A limit of 0 is none."""

    name: str
    per_minute: int = 0
    at_once: int = 0


class Refused(Exception):
    """A request that the gateway itself refuses: its HTTP status, a text for the client, and when to try again."""

    def __init__(self, status: int, code: str, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after


def key_hash(key: str) -> str:
    """Return the hash that the store keeps of a key.

    A fast hash is enough: a key has 256 random bits, so there is nothing to guess that a slow hash would protect.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def make_key(store: Store, name: str, per_minute: int = 0, at_once: int = 0) -> str:
    """Make a key and return it; it cannot be shown again. Raises SettingError if the name is taken."""
    key = PREFIX + secrets.token_urlsafe(32)
    row = {"name": name, "hash": key_hash(key), "per_minute": per_minute, "at_once": at_once}
    try:
        with store.writing.begin() as connection:
            connection.execute(insert(KEYS), {**row, "created_at": time.time(), "revoked_at": None})
    except IntegrityError:
        raise SettingError(
            f"there is already a key NAME={name}. Choose another name, or withdraw it: REVOKE=1."
        ) from None
    return key


def revoke_key(store: Store, name: str) -> None:
    """Withdraw a key. Raises SettingError if there is none of this name in force."""
    statement = update(KEYS).where(KEYS.c.name == name, KEYS.c.revoked_at.is_(None)).values(revoked_at=time.time())
    with store.writing.begin() as connection:
        found = connection.execute(statement).rowcount
    if not found:
        raise SettingError(f"there is no key NAME={name} in force.")


class Keys:
    """The keys in force, read from the store again when they may have changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._keys: dict[str, Key] = {}

    @property
    def stale(self) -> bool:
        """Whether `refresh` would read the store."""
        return time.monotonic() - self._read_at > _FRESH_SECONDS

    def refresh(self) -> None:
        """Read the keys if they were not read shortly before."""
        with self._lock:
            if not self.stale:
                return
            with self._store.engine.begin() as connection:
                rows = connection.execute(select(KEYS).where(KEYS.c.revoked_at.is_(None))).mappings().all()
            self._keys = {row["hash"]: Key(row["name"], row["per_minute"], row["at_once"]) for row in rows}
            self._read_at = time.monotonic()

    def __bool__(self) -> bool:
        return bool(self._keys)

    def key_of(self, given: str | None) -> Key:
        """Return the key that a request gave. Raises Refused if it is not in force."""
        found = self._keys.get(key_hash(given)) if given else None
        if found is None:
            what = "The key is not known to this gateway" if given else "This gateway needs a key"
            raise Refused(401, "invalid_api_key", f"{what}. Send it as: Authorization: Bearer {PREFIX}...")
        return found


class Limits:
    """Counts requests: those at once, of all and of each key, and those of each key in a minute."""

    def __init__(self, most: int) -> None:
        self.in_flight = 0
        self._most = most
        self._of_key: Counter[str] = Counter()
        self._buckets: dict[str, tuple[float, float]] = {}  # key -> requests left, and when that was

    @contextmanager
    def request(self, key: Key) -> Iterator[None]:
        """Count a request while the block runs. Raises Refused if it is one too many."""
        if self.in_flight >= self._most:
            raise Refused(429, "too_many_requests", f"The gateway answers {self._most} requests already.", 1)
        if key.at_once and self._of_key[key.name] >= key.at_once:
            raise Refused(429, "too_many_requests", f"The key allows {key.at_once} requests at once.", 1)
        if key.per_minute:
            self._take(key)
        self.in_flight += 1
        self._of_key[key.name] += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._of_key[key.name] -= 1

    def _take(self, key: Key) -> None:
        now, rate = time.monotonic(), key.per_minute / 60
        left, at = self._buckets.get(key.name, (float(key.per_minute), now))
        left = min(float(key.per_minute), left + (now - at) * rate)
        self._buckets[key.name] = (left - 1 if left >= 1 else left, now)
        if left < 1:
            raise Refused(
                429, "rate_limit_exceeded", f"The key allows {key.per_minute} requests a minute.", (1 - left) / rate
            )
