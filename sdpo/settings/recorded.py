"""The settings that a run recorded in run.json, under their present names."""

from collections.abc import Mapping
from typing import Any

# The names that settings had in the runs of earlier versions.
_RENAMED = {"model_name_or_path": "model", "base_model": "model", "unrelated_follow_up": "null_follow_up"}


def under_present_names(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return recorded settings with those that have been renamed since under the names that they have now."""
    return {_RENAMED.get(name, name): value for name, value in recorded.items()}
