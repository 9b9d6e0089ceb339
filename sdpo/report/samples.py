"""Samples over training, every token coloured by its signal, and the answers before and after."""

import json
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from sdpo.report.folder import Folder, listing, number
from sdpo.report.html import cut, folded, joined, table
from sdpo.signal.cells import cells, legend
from sdpo.signal.colours import limit_of

PLACES, EACH = 8, 3  # at how many steps, and how many interactions of each
_TOKENS, _TEXT = 400, 1500  # longer answers and texts are cut
_ANSWERS, _FIRST_ROWS = 3, 200


def samples(folder: Folder, identifier: str = "values") -> Markup:
    """Return samples of steps spread evenly over training, as many as fit a page; empty without any.

    `identifier` is the id of their checkbox for the values.
    """
    groups = folder.spread_rows("samples.jsonl", PLACES, EACH)
    groups = [[row for row in rows if listing(row.get("tokens")) and listing(row.get("signal"))] for rows in groups]
    groups = [rows for rows in groups if rows]
    if not groups:
        return Markup("")
    limit = limit_of(value for rows in groups for row in rows for value in _signal(row)[:_TOKENS])
    last = len(groups) - 1
    blocks = [
        folded(_title(rows), joined(_sample(row, limit) for row in rows), opened=index in (0, last))
        for index, rows in enumerate(groups)
    ]
    return legend(limit, "Point at a token for its value.", identifier) + joined(blocks)


def _title(rows: list[dict[str, Any]]) -> str:
    values = [abs(value) for row in rows for value in _signal(row)]
    size = sum(values) / max(len(values), 1)
    return f"step {cut(rows[0].get('step', '?'), 20)}: {len(rows)} interaction(s), mean |signal| {size:.3f} nats"


def _signal(row: Mapping[str, Any]) -> list[float]:
    return [number(value) or 0.0 for value in listing(row.get("signal"))]


def _sample(row: Mapping[str, Any], limit: float) -> Markup:
    pieces, signal = [str(piece) for piece in listing(row.get("tokens"))], _signal(row)
    rest = len(pieces) - _TOKENS
    facts = [str(row[name]) for name in ("kind", "rating") if row.get(name) is not None]
    if isinstance(row.get("satisfied"), bool):
        facts.append("satisfied" if row["satisfied"] else "not satisfied")
    return Markup(
        "<div class='sample'><p class='quote'><span class='quiet'>prompt</span><br>{}</p>{}{}"
        "<p class='quote'><span class='quiet'>follow-up{}</span><br>{}</p></div>"
    ).format(
        cut(_text(row.get("prompt")), _TEXT),
        cells(pieces[:_TOKENS], signal, limit),
        Markup("<p class='quiet'>{:,} more tokens</p>").format(rest) if rest > 0 else Markup(""),
        f" ({', '.join(facts)})" if facts else "",
        cut(_text(row.get("follow_up", row.get("user_response"))), _TEXT) or "none",
    )


def _text(value: Any) -> str:
    """Return a prompt as text: it is a text, or the messages of a conversation."""
    if isinstance(value, list):
        return "\n".join(
            f"{item.get('role', '')}: {item.get('content', '')}" if isinstance(item, dict) else str(item)
            for item in value
        )
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def answers(folder: Folder) -> Markup:
    """Return some answers to validation prompts before and after training; empty without both."""
    before, after = (_first_rows(folder, f"answers-{when}.jsonl") for when in ("before", "after"))
    pairs = list(zip(before, after, strict=False))
    count = min(_ANSWERS, len(pairs))
    rows = []
    for index in range(count):
        old, new = pairs[index * len(pairs) // count]
        texts = [_text(old.get("prompt")), _text(old.get("answer")), _text(new.get("answer"))]
        rows.append([Markup("<div class='text'>{}</div>").format(cut(text, _TEXT)) for text in texts])
    return table(["prompt", "answer before", "answer after"], rows)


def _first_rows(folder: Folder, name: str) -> list[dict[str, Any]]:
    rows = []
    for row in folder.rows(name):
        rows.append(row)
        if len(rows) == _FIRST_ROWS:
            break
    return rows
