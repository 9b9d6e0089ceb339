"""The section of a night of learning: the journal of `make learn`, stage by stage."""

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from sdpo.report.folder import LEARN_FILE, Folder
from sdpo.report.html import cut, duration, shown, table

_FIRST = ("time", "at", "stage", "event", "state", "decision", "verdict", "version")


def journal(folder: Folder) -> Markup:
    """Return the journal as a table, one row per entry: what was done, what was decided, and why."""
    rows = []
    for row in folder.rows(LEARN_FILE):
        names = [name for name in _FIRST if name in row]
        rest = [name for name in row if name not in names]
        title = " · ".join(_text(name, row[name]) for name in names) or "entry"
        rows.append([title, "; ".join(f"{name.replace('_', ' ')}: {_text(name, row[name])}" for name in rest)])
    return table(["entry", "what it says"], rows)


def decision(folder: Folder) -> str:
    """Return the last entry that has a decision or a verdict, in one sentence; empty without one."""
    found = ""
    for row in folder.rows(LEARN_FILE):
        value = row.get("decision") or row.get("verdict")
        if value:
            found = _text("decision", value) + (f": {_text('reasons', row['reasons'])}" if row.get("reasons") else "")
    return found


def _text(name: str, value: Any) -> str:
    """Return a value of the journal as text; ids and other long lists as their number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return duration(value) if name.endswith("seconds") else shown(value)
    if isinstance(value, list):
        short = all(isinstance(item, str) for item in value) and sum(map(len, map(str, value))) < 600
        return "; ".join(map(str, value)) if short else f"{len(value)} entries"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(key, item)}" for key, item in value.items())
    return cut("" if value is None else str(value), 400)
