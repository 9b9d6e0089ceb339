"""Named groups of settings: what RECIPE stands for. Values that are given otherwise come first."""

from collections.abc import Mapping
from typing import Any

# paper: as the paper and its authors' code train; these are the settings' own defaults.
# recommended: the best of the few runs on real models so far. A frozen teacher keeps the language: with one that
# follows the policy (ema at .1) answers came to seven tokens. The contrast leaves out what any follow-up does to a
# small model. Its strength sets how often answers fit in the end; plausibility keeps them fluent at that strength,
# where a margin halved how often they fit. Complaints alone, so that nothing moves once users are content. A higher LR
# overshoots: at 2e-4 a model of half a billion parameters came to answers of a word or two.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "recommended": {
        "teacher": "frozen",
        "objective": "full",
        "null_contrast": True,
        "contrast_strength": 4.0,
        "contrast_plausibility": 0.05,
        "learn_from": "complaints",
        "adapter": "lora",
        "lr": 5e-5,
        "adam_beta1": 0.5,
    },
}
