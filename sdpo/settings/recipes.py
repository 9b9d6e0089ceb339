"""Named groups of settings: what RECIPE stands for. Values that are given otherwise come first."""

from collections.abc import Mapping
from typing import Any

# paper: as the paper and its authors' code train; these are the settings' own defaults.
# recommended: the best of the runs on real models so far (docs/real.md).
#   teacher, objective    A frozen teacher keeps the language. With one that follows the policy (ema at .1) answers came
#                         to seven tokens.
#   contrast              What any follow-up does to a small model is subtracted. The strength sets how often answers
#                         fit in the end; plausibility keeps them fluent at that strength.
#   learn_from            Complaints alone: a message about something else moves a small model as much.
#   content_weight        Answers that users like are held where they are, a little: without it the share of satisfied
#                         users swung between a half and all.
#   rehearsal             Without it answers to general prompts moved by 0.1 to 0.2 nats a token.
#   iterations            Two passes: answers and users cost more than steps do, and the target stays the same.
#   lr                    Half a billion parameters overshoot at 2e-4, 1.5 billion at 1e-4; 135 million need 2e-4.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "recommended": {
        "teacher": "frozen",
        "objective": "full",
        "null_contrast": True,
        "contrast_strength": 6.0,
        "contrast_plausibility": 0.05,
        "learn_from": "complaints",
        "content_weight": 0.1,
        "rehearsal": 5.0,
        "iterations": 2,
        "adapter": "lora",
        "lr": 1e-4,
        "adam_beta1": 0.5,
    },
}

# The number of parameters of the models that the recommended learning rate suits.
_SUITED = (300e6, 1e9)
_TINY = 20e6  # nothing was measured on models as small as the tiny world's


def learning_rate_advice(lr: float, parameters: int) -> str | None:
    """Return what to say of the recommended learning rate for a model of this size; None if it suits."""
    if parameters < _TINY or _SUITED[0] <= parameters < _SUITED[1]:
        return None
    words = f"LR={lr:g} is of RECIPE=recommended, for half a billion parameters; this model has "
    if parameters < _SUITED[0]:
        return f"{words}{parameters / 1e6:.0f} million. One of 135 million learned better with LR=2e-4."
    return (
        f"{words}{parameters / 1e9:.2g} billion. One of 1.5 billion moved too far from its start with it: try half of "
        "it, or less, if the guard warns."
    )
