"""Small pieces of HTML that all sections use. Everything put into them is escaped."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from markupsafe import Markup

from sdpo.report.folder import number

NONE = "–"
# A figure, an interval, a duration: what stands to the right in a column.
_NUMERIC = re.compile(r"[$+−-]?[\d,.]+(e-?\d+)?( ?(s|min|h|%))?( (to|→) -?[\d,.]+| \d+ (s|min))?|–")


def joined(parts: Iterable[Markup]) -> Markup:
    """Return the parts one after another."""
    return Markup("").join(parts)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "", css_class: str = "") -> Markup:
    """Return a table: numbers to the right, everything else to the left. Empty without rows.

    One of class `stacked` has its cells below each other on a narrow screen.
    """
    lines = [joined(_cell(value) for value in row) for row in rows]
    if not lines:
        return Markup("")
    titles = joined(Markup("<th scope='col'>{}</th>").format(text) for text in head)
    return Markup("<table{}>{}<thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(
        Markup(" class='{}'").format(css_class) if css_class else Markup(""),
        Markup("<caption>{}</caption>").format(caption) if caption else Markup(""),
        titles,
        joined(Markup("<tr>{}</tr>").format(line) for line in lines),
    )


def facts(rows: Iterable[tuple[str, Any]]) -> Markup:
    """Return names with their values, those without a value left out."""
    lines = [
        Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(name, value)
        for name, value in rows
        if value not in (None, "", NONE)
    ]
    return Markup("<dl class='facts'>{}</dl>").format(joined(lines)) if lines else Markup("")


def folded(title: str, body: Markup, opened: bool = False) -> Markup:
    """Return a part that opens and closes, also with the keyboard."""
    return Markup("<details{}><summary>{}</summary>{}</details>").format(
        Markup(" open") if opened else Markup(""), title, body
    )


def bullets(texts: Iterable[str], css_class: str = "") -> Markup:
    """Return a list of sentences, empty without any."""
    items = joined(Markup("<li>{}</li>").format(text) for text in texts)
    return Markup("<ul class='{}'>{}</ul>").format(css_class, items) if items else Markup("")


def code(text: str) -> Markup:
    """Return a command or a file's text, as it is."""
    return Markup("<pre tabindex='0'>{}</pre>").format(text) if text else Markup("")


def shown(value: Any, digits: int = 3) -> str:
    """Return a figure as text: – for none, and as many digits as it needs."""
    figure = number(value)
    if figure is None:
        return NONE if value is None else cut(value, 200)
    if figure == int(figure) and abs(figure) < 1e15:
        return f"{int(figure):,}"
    if abs(figure) < 10**-digits:
        return f"{figure:.1e}".replace("e-0", "e-")
    return f"{figure:.{digits}f}"


def interval(low: Any, high: Any) -> str:
    """Return "low to high", – if one of them is missing."""
    return NONE if number(low) is None or number(high) is None else f"{shown(low)} to {shown(high)}"


def duration(seconds: Any) -> str:
    """Return seconds as hours, minutes and seconds."""
    figure = number(seconds)
    if figure is None:
        return NONE
    if figure < 60:
        return f"{figure:.1f} s"
    hours, rest = divmod(round(figure), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def moment(text: Any) -> str:
    """Return a time in ISO form as people read it, to the second; what is none stays as it is."""
    text = cut("" if text is None else text, 40)
    return f"{text[:10]} {text[11:19]}" + (" UTC" if text.endswith("+00:00") else "") if text[10:11] == "T" else text


def cut(text: Any, length: int) -> str:
    """Return a text cut to a length; what is no text becomes one."""
    text = text if isinstance(text, str) else str(text)
    return text if len(text) <= length else text[: length - 1] + "…"


def _cell(value: Any) -> Markup:
    if isinstance(value, Markup):
        return Markup("<td>{}</td>").format(value)
    if isinstance(value, str) or value is None:
        numeric = value is not None and _NUMERIC.fullmatch(value)
        return Markup("<td{}>{}</td>").format(Markup(" class='number'") if numeric else "", value or "")
    return Markup("<td class='number'>{}</td>").format(shown(value))
