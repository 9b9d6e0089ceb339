"""Learning from what users write after an answer (arXiv 2603.12273): the jobs, and what one's own scripts import.

`HindsightTrainer` and its configuration are imported when they are first used: `import sdpo` loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdpo.train.online.hindsight_config import HindsightConfig
    from sdpo.train.online.hindsight_trainer import HindsightTrainer

__all__ = ["HindsightConfig", "HindsightTrainer"]

_HOMES = {
    "HindsightConfig": "sdpo.train.online.hindsight_config",
    "HindsightTrainer": "sdpo.train.online.hindsight_trainer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module("sdpo.runtime.loading").quiet_imports()
    return getattr(import_module(_HOMES[name]), name)
