"""Whether a run's weights are sharded (FSDP), and what cannot be sharded. Importing this is cheap."""

from pathlib import Path
from typing import TYPE_CHECKING

from sdpo.errors import SettingError

if TYPE_CHECKING:
    from sdpo.settings import TrainingSettings


def is_sharded(config: Path | None) -> bool:
    """Return whether an accelerate file shards the weights (FSDP)."""
    if config is None:
        return False
    import yaml

    content = yaml.safe_load(config.read_text("utf-8"))
    return isinstance(content, dict) and content.get("distributed_type") == "FSDP"


def check_sharded(settings: "TrainingSettings") -> None:
    """Raise SettingError for settings with which sharded weights cannot be trained."""
    if settings.adapter == "qlora":
        raise SettingError(
            "ADAPTER=qlora holds the weights in 4 bits, which FSDP does not shard. Set ADAPTER=lora, or leave out "
            "ACCELERATE_CONFIG."
        )
    if settings.optimizer == "adamw_8bit":
        raise SettingError(
            "OPTIMIZER=adamw_8bit cannot update weights that FSDP has sharded. Leave it out (FSDP has AdamW then), or "
            "leave out ACCELERATE_CONFIG."
        )
