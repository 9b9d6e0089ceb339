"""The results as text: a line for each check while they run, and a table of all at the end."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sdpo.gpu_checks.outcome import PASSED

_WIDTH = 100


def line(result: Mapping[str, Any]) -> str:
    """Return one line: name, status, seconds, and the reason if it did not pass."""
    reason = f": {result['reason']}" if result["reason"] else ""
    return f"{result['name']}: {result['status']} ({result['seconds']:.1f} s){reason}"


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of all results: check, status, seconds, and the figures or the reason."""
    rows = [("check", "status", "seconds", "")]
    for result in results:
        seconds = f"{result['seconds']:.1f}" if result["seconds"] else "-"
        texts = list(figure_lines(result["figures"]))
        texts = texts or [result["what"]] if result["status"] == PASSED else [result["reason"], *texts]
        rows.append((result["name"], result["status"], seconds, texts[0]))
        rows += [("", "", "", text) for text in texts[1:]]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{row[0]:{widths[0]}}  {row[1]:{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip() for row in rows
    )


def figure_lines(figures: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the figures as lines: those of one level beside each other, each nested group on lines of its own."""
    plain = [f"{name} {_shown(value)}" for name, value in figures.items() if not isinstance(value, Mapping)]
    text = prefix
    for part in plain:
        if text != prefix and len(text) + len(part) > _WIDTH:
            yield text
            text = " " * len(prefix)
        text += ("" if text in (prefix, " " * len(prefix)) else ", ") + part
    if plain:
        yield text
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from figure_lines(value, f"{prefix}{name}: ")


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
