"""Points in time and positions, in the forms that tools write. Pure functions."""

import re
from datetime import UTC, date, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any

from sdpo.text.records import is_encodable

_ZONE = re.compile(r"\s*(?:UTC|GMT|Z)$", re.IGNORECASE)
_OFFSET_AND_ZONE = re.compile(r"([+-]\d{2}:?\d{2})\s+[A-Z]{2,5}$")  # as Go and Ruby print a time
_FRACTION = re.compile(r"(\.\d{6})\d+")
_SLASHES = re.compile(r"^(\d{1,2})([/.])(\d{1,2})\2(\d{4})(.*)$")
_WORDS = (
    "%b %d, %Y, %I:%M:%S %p", "%b %d, %Y, %I:%M %p", "%b %d, %Y %I:%M %p", "%b %d, %Y %H:%M:%S", "%b %d, %Y %H:%M",
    "%b %d, %Y", "%d %b %Y %H:%M:%S", "%d %b %Y %H:%M", "%d %b %Y, %H:%M:%S", "%d %b %Y, %H:%M", "%d %b %Y",
    "%Y-%m-%d %I:%M:%S %p", "%Y-%m-%d %I:%M %p", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d",
    "%a %b %d %H:%M:%S %Y", "%A, %b %d, %Y %I:%M %p",
)  # fmt: skip
_MONTHS = re.compile(
    r"\b(january|february|march|april|june|july|august|september|sept|october|november|december)\b", re.IGNORECASE
)
_TAIL = ("", " %H:%M:%S", " %H:%M", ", %H:%M:%S", ", %H:%M", " %I:%M:%S %p", " %I:%M %p", ", %I:%M:%S %p", ", %I:%M %p")


def moment(value: Any) -> float | None:
    """Return a point in time as seconds since 1970, or None if it cannot be read or could mean two.

    It may be a date, a number of seconds, milliseconds, microseconds or nanoseconds, or one of the usual texts.
    """
    value = _unwrapped(value)
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, date):
        return _seconds(value if isinstance(value, datetime) else datetime(value.year, value.month, value.day))
    number = position(value)
    if number is not None:
        return _in_seconds(number)
    return _parsed(str(value).strip()) if isinstance(value, str) else None


def position(value: Any) -> float | None:
    """Return a number, or a text that is one, as a sort key; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < float("inf") else None


def time_of(value: Any) -> str | None:
    """Return a point in time as a string, or None.

    A date, or a number of seconds or milliseconds since 1970, becomes ISO 8601; a string is kept, stripped.
    """
    value = _unwrapped(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return datetime.fromtimestamp(_in_seconds(value), UTC).isoformat()
        except (ValueError, OverflowError, OSError):
            return None
    return value.strip() if isinstance(value, str) and value.strip() and is_encodable(value) else None


def _unwrapped(value: Any) -> Any:
    """Return what MongoDB's and Firestore's exports wrap."""
    for _ in range(3):
        if not isinstance(value, dict):
            return value
        names = [name for name in ("$date", "$numberLong", "$numberInt", "$numberDouble") if name in value]
        if names:
            value = value[names[0]]
            value = int(value) if isinstance(value, str) and value.lstrip("-").isdigit() and len(value) < 20 else value
        else:
            value = value.get("seconds", value.get("_seconds"))
    return value


def _in_seconds(number: float) -> float:
    """Return a time that may be in a smaller unit in seconds, judged by its size: the year is at most about 5100."""
    for limit, divisor in ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3)):
        if abs(number) > limit:
            return number / divisor
    return number


def _parsed(text: str) -> float | None:
    plain = _FRACTION.sub(r"\1", _OFFSET_AND_ZONE.sub(r"\1", text))
    without_zone = _ZONE.sub("", plain)
    for candidate in (plain, without_zone):
        try:
            return _seconds(datetime.fromisoformat(candidate))
        except (ValueError, OverflowError):
            continue
    short = _MONTHS.sub(lambda month: month[0][:3], " ".join(without_zone.split()))
    for form in (*_WORDS, *_slash_forms(short)):
        try:
            return _seconds(datetime.strptime(short, form))
        except (ValueError, OverflowError):
            continue
    try:
        return _seconds(parsedate_to_datetime(text))
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _slash_forms(text: str) -> list[str]:
    """Return how a date such as 13/02/2025 is to be read; nothing if day and month could be exchanged."""
    match = _SLASHES.match(text)
    if match is None:
        return []
    first, separator, second = int(match[1]), match[2], int(match[3])
    if separator == "." or first > 12 or first == second:
        order = f"%d{separator}%m{separator}%Y"
    elif second > 12:
        order = f"%m{separator}%d{separator}%Y"
    else:
        return []
    return [order + tail for tail in _TAIL]


def _seconds(when: datetime) -> float:
    # Computed instead of `timestamp()`, which fails for years that the platform's clock does not know.
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return (aware - datetime(1970, 1, 1, tzinfo=timezone(timedelta(0)))).total_seconds()
