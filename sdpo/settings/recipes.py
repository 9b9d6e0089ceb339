"""Named groups of settings: what RECIPE stands for. Values that are given otherwise come first."""

from collections.abc import Mapping
from typing import Any

# paper: as the paper and its authors' code train; these are the settings' own defaults.
# recommended: the best of the few runs on real models so far. A frozen teacher keeps the language; the contrast and its
# margin leave out what any follow-up does to a small model; complaints alone, so that nothing moves once users are
# content. A higher LR overshoots: at 2e-4 a model of half a billion parameters went from 54 tokens an answer to 15
# within four steps of 8, and to answers of a word or two.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "recommended": {
        "teacher": "frozen",
        "objective": "full",
        "null_contrast": True,
        "contrast_strength": 2.0,
        "contrast_margin": 0.5,
        "learn_from": "complaints",
        "adapter": "lora",
        "lr": 5e-5,
        "adam_beta1": 0.5,
    },
}
