"""The one colour scale of every figure and page: blue where hindsight would rather say a token, red where not.

Colour goes by the root of the signal's size, so that a tenth of the end can still be seen; the scale says so.

Red and blue are told apart without colour vision for red or green. Where there is no colour at all, in print, a
line tells: above a token for more likely, below it for less.
"""

import math
from collections.abc import Iterable, Sequence

# From the least to the most: evenly spaced, the middle is no change.
STOPS = ("#b2182b", "#ef8a62", "#fddbc7", "#f7f7f7", "#d1e5f0", "#67a9cf", "#2166ac")
# Below this share of the scale a token gets no line: it is as good as unchanged.
MARKED = 0.02
_NICE = (1, 1.5, 2, 3, 5, 7.5)


def limit_of(values: Iterable[float], share: float = 0.995) -> float:
    """Return the end of a scale centred on zero for these signals, in nats: a round number.

    It is at or above the given share of their sizes, so that one extreme token does not wash out all others; what is
    beyond has the colour of the end. At least 0.1, so that noise does not look like signal.
    """
    sizes = sorted(abs(value) for value in values if math.isfinite(value))
    needed = max(sizes[math.ceil(share * len(sizes)) - 1] if sizes else 0.0, 0.1)
    power = 10.0 ** math.floor(math.log10(needed))
    return next((nice * power for nice in _NICE if nice * power >= needed * (1 - 1e-9)), 10 * power)


def colour(value: float, limit: float) -> tuple[int, int, int]:
    """Return red, green and blue from 0 to 255 of a signal; beyond the limit, and for no number, the nearest end."""
    place = 0.0 if math.isnan(value) else math.copysign(math.sqrt(min(1.0, abs(value) / limit)), value)
    place = (place + 1) / 2 * (len(STOPS) - 1)
    lower = min(int(place), len(STOPS) - 2)
    left, right = _parts(STOPS[lower]), _parts(STOPS[lower + 1])
    return tuple(round(a + (b - a) * (place - lower)) for a, b in zip(left, right, strict=True))


def scale_labels(limit: float) -> list[str]:
    """Return what stands at five evenly spaced places of the scale, from its least to its most."""
    return [f"≤ −{limit:g}", f"−{limit / 4:.3g}", "0", f"+{limit / 4:.3g}", f"≥ +{limit:g}"]


def ink(background: Sequence[float]) -> str:
    """Return black or white, whichever is easier to read on a colour of red, green and blue from 0 to 255."""
    return "#ffffff" if _contrast(background, 1.0) > _contrast(background, 0.0) else "#000000"


def mark(value: float, limit: float) -> str:
    """Return more, less, or nothing for a signal too small to be marked."""
    if math.isnan(value) or abs(value) < MARKED * limit:
        return ""
    return "more" if value > 0 else "less"


def _parts(stop: str) -> tuple[int, int, int]:
    return tuple(int(stop[start : start + 2], 16) for start in (1, 3, 5))


def _contrast(background: Sequence[float], luminance: float) -> float:
    """Return WCAG 2's contrast of text of this luminance on the background."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (value / 255 for value in background)
    )
    other = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return (max(other, luminance) + 0.05) / (min(other, luminance) + 0.05)
