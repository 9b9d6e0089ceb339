"""The README.md beside prepared data: by its head `load_dataset`, and the hub, know which files are the data."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SPLITS = ("train", "validation", "test")
# The columns of interactions. Without them the types of the first rows would count: a model that only later rows name,
# or ratings and unfinished answers that only later rows have, would then be errors.
INTERACTION_COLUMNS = {
    "id": "string",
    "conversation_id": "string",
    "turn_id": "int64",
    "model": "string",
    "timestamp": "string",
    "prompt": ("role", "content"),
    "completion": "string",
    "user_response": "string",
    "prompt_length": "int64",
    "completion_length": "int64",
    "user_response_length": "int64",
    "rating": "float64",
    "finished": "bool",
}


def dataset_card(report: dict[str, Any], names: Sequence[str]) -> str:
    """Return the card of a folder with these files. A source on this machine is not named: a card may be published."""
    data = [name for name in names if name.endswith(".jsonl")]
    splits = {Path(name).stem if Path(name).stem in SPLITS else SPLITS[0]: name for name in data}
    lines = ["---", "configs:", "- config_name: default", "  data_files:"]
    for split, name in splits.items():
        lines += [f"  - split: {split}", f"    path: {name}"]
    if "interactions" in report["counts"]:
        lines += ["dataset_info:", "  features:", *_columns()]
    source = str(report["source"])
    own = "" if Path(source).exists() else f" from {source}"
    made = f"Prepared{own} with `make {report['job']}`; `report.json` counts what was kept and what was left out."
    lines += ["tags: [sdpo, user-interactions]", "---", "", made]
    if "redacted" in report:
        lines += ["", f"Redacted: {json.dumps(report['redacted'], ensure_ascii=False)}."]
    return "\n".join(lines) + "\n"


def _columns() -> list[str]:
    lines = []
    for name, kind in INTERACTION_COLUMNS.items():
        lines.append(f"  - name: {name}")
        if isinstance(kind, str):
            lines.append(f"    dtype: {kind}")
        else:
            lines.append("    list:")
            for part in kind:
                lines += [f"    - name: {part}", "      dtype: string"]
    return lines
