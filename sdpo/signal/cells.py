"""Tokens as cells coloured by their signal, and the legend of the colours, for all pages."""

from collections.abc import Sequence

from markupsafe import Markup

from sdpo.signal.colours import STOPS, colour, ink, mark, scale_labels

# Needs the style of `sdpo.runtime.page`.
CELL_STYLE = """
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; align-items: center; position: sticky; top: 0; z-index: 1;
  background: var(--paper); padding: .4rem 0; border-bottom: 1px solid var(--line); }
.scale { display: inline-grid; grid-template-columns: repeat(5, 3.6rem); font-size: .8rem; text-align: center; }
.scale i { grid-column: 1 / 6; margin: 0 1.8rem; height: .8rem; }
.scale b { font-weight: normal; }
@media (max-width: 700px) { .legend { position: static; } }
.quiet { color: var(--quiet); font-size: .85rem; }
.quote { border-left: 3px solid var(--line); padding-left: .6rem; margin: .3rem 0; white-space: pre-wrap; }
.answer { font: 14px/2 ui-monospace, monospace; }
.values .answer { line-height: 1.5; }
.t { white-space: pre-wrap; padding: .15rem 0; border: 0 solid; position: relative; box-shadow: 1px 0 0 #0003; }
.t, .scale i { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.t.more { border-top-width: 2px; } .t.less { border-bottom-width: 2px; }
.t.sign { font-size: .75em; }
.values .t::after { content: attr(data-v); position: absolute; left: 0; top: 100%; font: 9px/1 ui-monospace, monospace;
  color: var(--quiet); white-space: nowrap; }
.values .t { display: inline-block; vertical-align: top; min-width: 2.6em; margin: 0 2px .9rem 0; }
@media print { .legend { position: static; } .control { display: none; } section { break-inside: avoid; } }
"""

MEANING = (
    "log π(y | x, o) − log π(y | x) in nats, for prompt x, follow-up o, answer y; the same square-root colour scale "
    "everywhere. Blue with a line above: more likely with hindsight. Red with a line below: less likely."
)


def legend(limit: float, more: str = "", identifier: str = "values") -> Markup:
    """Return the colour scale with its meaning, and a checkbox to show the values; `more` is a further sentence.

    The page's script or style shows the values when the checkbox, whose id is `identifier`, is checked.
    """
    labels = Markup("").join(Markup("<b>{}</b>").format(label) for label in scale_labels(limit))
    return Markup(
        "<div class='legend'><span class='scale'><i style='background: linear-gradient(to right, {stops})'></i>{labels}"
        "</span><span class='quiet'>{meaning}</span>"
        "<label class='control'><input type='checkbox' id='{identifier}'> show values</label></div>"
    ).format(stops=", ".join(STOPS), labels=labels, meaning=f"{MEANING} {more}".strip(), identifier=identifier)


def cell(piece: str, value: float, limit: float, attributes: Markup = Markup("")) -> Markup:  # noqa: B008 (immutable)
    """Return a token as a cell; a line break is shown as a sign, and at the end of a token it also breaks the line."""
    background = colour(value, limit)
    return Markup("<span class='t {}{}'{} data-v='{}' style='background:#{};color:{}'>{}</span>{}").format(
        mark(value, limit),
        "" if piece else " sign",
        attributes,
        number_text(value),
        "".join(f"{part:02x}" for part in background),
        ink(background),
        shown(piece),
        Markup("<br>") if piece.endswith("\n") else "",
    )


def cells(pieces: Sequence[str], signal: Sequence[float], limit: float) -> Markup:
    """Return an answer's tokens as cells, each with its signal as its title."""
    parts = [
        cell(piece, value, limit, Markup(" title='{} nats'").format(number_text(value)))
        for piece, value in zip(pieces, signal, strict=False)
    ]
    return Markup("<div class='answer'>{}</div>").format(Markup("").join(parts))


def shown(piece: str) -> str:
    """Return a token's text with visible signs for line breaks and tabs; … for a part of the next character."""
    return piece.replace("\r", "␍").replace("\t", "⇥").replace("\n", "⏎") or "…"


def number_text(value: float) -> str:
    """Return a signal with its sign and two decimals."""
    return f"{value:+.2f}".replace("-", "−")
