"""The settings of the checks on a GPU."""

from dataclasses import dataclass

from sdpo.settings.common import JobSettings
from sdpo.settings.declare import setting


@dataclass(frozen=True, kw_only=True)
class GpuCheckSettings(JobSettings):
    """Checks on a GPU."""

    checks: str = setting("all", "the checks to run, by name and separated by spaces, or all")
    budget_seconds: float = setting(
        500.0, "the seconds for all checks together; those that no longer fit are not run", above=0
    )
    check_seconds: float | None = setting(
        None, "the seconds after which a check is ended; if not set, each check's own limit", above=0
    )
