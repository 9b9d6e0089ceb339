"""The settings of the contrast with a follow-up that asks for no change."""

from dataclasses import dataclass
from typing import Any, Literal

from sdpo.settings.common import JobSettings
from sdpo.settings.declare import setting
from sdpo.text.prompts import NULL_FOLLOW_UP

# Settings without any effect unless NULL_CONTRAST is on.
OF_NULL_CONTRAST = ("null_follow_up", "contrast_strength", "contrast_margin", "contrast_plausibility")


@dataclass(frozen=True, kw_only=True)
class ContrastSettings(JobSettings):
    """What the teacher's output is compared with."""

    recipe: Literal["paper", "recommended"] = setting(
        "paper",
        "the defaults of teacher, objective, contrast, adapter and learning rate: the paper's, or those that did best "
        "on real models (docs/guides/choosing.md)",
    )
    null_contrast: bool = setting(False, "subtract the effect of NULL_FOLLOW_UP, at two more forward passes")
    null_follow_up: str = setting(
        NULL_FOLLOW_UP, "a follow-up that asks for no change, for NULL_CONTRAST", alias="unrelated_follow_up"
    )
    contrast_strength: float = setting(
        1.0, "the factor of what NULL_CONTRAST leaves of the follow-up's effect", above=0
    )
    contrast_margin: float = setting(
        0.0, "the nats below which what NULL_CONTRAST leaves of a token's change counts as noise", at_least=0
    )
    contrast_plausibility: float = setting(
        0.0,
        "the share of the most likely token's probability that a token needs for NULL_CONTRAST to make it likelier "
        "(objectives full and top_k)",
        at_least=0,
        at_most=1,
    )

    @property
    def contrast(self) -> dict[str, Any]:
        """The arguments of `sdpo.method.objective.Objective` for the contrast."""
        return {
            "null_contrast": self.null_contrast,
            "contrast_strength": self.contrast_strength,
            "contrast_margin": self.contrast_margin,
            "contrast_plausibility": self.contrast_plausibility,
        }
