"""The colour scale of this package's figures and pages: blue if hindsight makes a token more likely, red if less.

The colour encodes the square root of the signal's size, so that a tenth of the maximum is still visible; the scale's
labels account for it.

Red and blue can be distinguished with red-green colour blindness. In a black-and-white print a line shows the sign:
above a token it is more likely, below it less likely.
"""

import math
from collections.abc import Iterable, Sequence

# From the lowest to the highest signal, evenly spaced; the middle is no change.
STOPS = ("#b2182b", "#ef8a62", "#fddbc7", "#f7f7f7", "#d1e5f0", "#67a9cf", "#2166ac")
# Below this share of the scale's limit a token gets no line: it is practically unchanged.
MARKED = 0.02
_NICE = (1, 1.5, 2, 3, 5, 7.5)


def limit_of(values: Iterable[float], share: float = 0.995) -> float:
    """Return the limit of a scale centred on zero for these signals, in nats: a round number.

    At least the given share of the sizes are within it, so that one extreme token does not wash out all others;
    values beyond it get the colour of the limit. At least 0.1, so that noise does not look like signal.
    """
    sizes = sorted(abs(value) for value in values if math.isfinite(value))
    needed = max(sizes[math.ceil(share * len(sizes)) - 1] if sizes else 0.0, 0.1)
    power = 10.0 ** math.floor(math.log10(needed))
    return next((nice * power for nice in _NICE if nice * power >= needed * (1 - 1e-9)), 10 * power)


def colour(value: float, limit: float) -> tuple[int, int, int]:
    """Return red, green and blue (0 to 255) of a signal; values beyond the limit get its colour, NaN that of zero."""
    position = 0.0 if math.isnan(value) else math.copysign(math.sqrt(min(1.0, abs(value) / limit)), value)
    position = (position + 1) / 2 * (len(STOPS) - 1)
    lower = min(int(position), len(STOPS) - 2)
    left, right = _rgb(STOPS[lower]), _rgb(STOPS[lower + 1])
    red, green, blue = (round(a + (b - a) * (position - lower)) for a, b in zip(left, right, strict=True))
    return red, green, blue


def scale_labels(limit: float) -> list[str]:
    """Return the labels of five evenly spaced positions on the scale, from the lowest to the highest."""
    return [f"≤ −{limit:g}", f"−{limit / 4:.3g}", "0", f"+{limit / 4:.3g}", f"≥ +{limit:g}"]


def ink(background: Sequence[float]) -> str:
    """Return black or white, whichever is easier to read on a background of red, green and blue (0 to 255)."""
    return "#ffffff" if _contrast(background, 1.0) > _contrast(background, 0.0) else "#000000"


def mark(value: float, limit: float) -> str:
    """Return "more" or "less" by the signal's sign, or "" for a signal too small to be marked."""
    if math.isnan(value) or abs(value) < MARKED * limit:
        return ""
    return "more" if value > 0 else "less"


def _rgb(stop: str) -> tuple[int, int, int]:
    return int(stop[1:3], 16), int(stop[3:5], 16), int(stop[5:7], 16)


def _contrast(background: Sequence[float], luminance: float) -> float:
    """Return the WCAG 2 contrast ratio between text of this luminance and the background."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (value / 255 for value in background)
    )
    other = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return (max(other, luminance) + 0.05) / (min(other, luminance) + 0.05)
