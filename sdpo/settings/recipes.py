"""Named groups of settings: what RECIPE stands for. Values that are given otherwise come first."""

from collections.abc import Mapping
from typing import Any

# paper: as the paper and its authors' code train; these are the settings' own defaults.
# recommended: what learned real persons' wishes on real models and kept the rest (docs/real.md).
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "recommended": {
        "teacher": "frozen",
        "objective": "full",
        "null_contrast": True,
        "contrast_strength": 4.0,
        "contrast_margin": 1.0,
        "learn_from": "complaints",
        "adapter": "lora",
        "lr": 2e-4,
    },
}
