"""The objective that a job's settings, or the configuration of a trainer, describe."""

from typing import Any, Protocol

from sdpo.method.objective import Objective


class ObjectiveSettings(Protocol):
    """The settings of the objective, by the names under which `sdpo.settings` declares them."""

    @property
    def objective(self) -> str: ...
    @property
    def direction(self) -> str: ...
    @property
    def centre_signal(self) -> bool: ...
    @property
    def clip_signal(self) -> float | None: ...
    @property
    def ignore_first_k(self) -> int: ...
    @property
    def null_contrast(self) -> bool: ...
    @property
    def contrast_strength(self) -> float: ...
    @property
    def contrast_margin(self) -> float: ...
    @property
    def contrast_plausibility(self) -> float: ...


def build_objective(settings: ObjectiveSettings, top_k: int, **more: Any) -> Objective:
    """Return the objective that the settings describe; `more` are arguments that online training alone has.

    `top_k` comes by itself: TRL's configurations have another one, for sampling.
    """
    return Objective(
        kind=settings.objective,
        direction=settings.direction,
        top_k=top_k,
        centre=settings.centre_signal,
        clip_signal=settings.clip_signal,
        ignore_first_k=settings.ignore_first_k,
        null_contrast=settings.null_contrast,
        contrast_strength=settings.contrast_strength,
        contrast_margin=settings.contrast_margin,
        contrast_plausibility=settings.contrast_plausibility,
        **more,
    )
