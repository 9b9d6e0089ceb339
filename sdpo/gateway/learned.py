"""Which versions of the registry learned from conversations."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from sdpo.gateway.conversations import conversation_of


def versions_with(registry: Path, conversations: Collection[str], runs: Collection[str] = ()) -> list[str]:
    """Return the names of the versions whose record names one of the conversations, or one of the runs."""
    wanted = {*conversations, *runs}
    found = []
    for path in sorted((registry / "versions").glob("*/version.json")):
        try:
            record = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if _names(record, wanted):
            found.append(path.parent.name)
    return found


def _names(value: Any, wanted: Collection[str]) -> bool:
    if isinstance(value, dict):
        return any(_names(one, wanted) for one in value.values())
    if isinstance(value, list):
        return any(_names(one, wanted) for one in value)
    return isinstance(value, str) and (value in wanted or conversation_of(value) in wanted)
