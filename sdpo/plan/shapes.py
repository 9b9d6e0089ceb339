"""The shape of a model, from its config.json: in a folder, in the hub's cache, or in the table of well-known models."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdpo.errors import SettingError, one_line

# The entries of config.json that decide the shape, of models whose config is not at hand.
TABLE = Path(__file__).with_name("models.json")
# Models of other types may have layers that the formulas do not know.
_NORMALIZES_QUERIES = ("qwen3",)
_HAS_BIASES = ("qwen2",)
# What transformers takes where a config.json leaves it out, by type; where that is None, it follows from other entries.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
    "qwen2": {"num_key_value_heads": 32},
    "llama": {},
    "mistral": {"num_key_value_heads": 8},
    "smollm3": {"num_key_value_heads": 4, "tie_word_embeddings": True},
}
KNOWN_TYPES = tuple(_DEFAULTS)


@dataclass(frozen=True)
class Shape:
    """A decoder of equal layers: attention with grouped keys, and a gated feed-forward part.

    `wide` and `narrow` are the widths of all query heads and of all key heads together.
    """

    name: str
    model_type: str
    hidden: int
    layers: int
    heads: int
    key_heads: int
    head_size: int
    inner: int
    vocabulary: int
    tied: bool

    @property
    def wide(self) -> int:
        """The width of the queries, all heads together."""
        return self.heads * self.head_size

    @property
    def narrow(self) -> int:
        """The width of the keys, and that of the values."""
        return self.key_heads * self.head_size

    @property
    def normalizes_queries(self) -> bool:
        """Whether queries and keys are normalized by head."""
        return self.model_type in _NORMALIZES_QUERIES

    @property
    def linear(self) -> Mapping[str, tuple[int, int]]:
        """The linear layers of one layer by name: their inputs and outputs."""
        return {
            "q_proj": (self.hidden, self.wide),
            "k_proj": (self.hidden, self.narrow),
            "v_proj": (self.hidden, self.narrow),
            "o_proj": (self.wide, self.hidden),
            "gate_proj": (self.hidden, self.inner),
            "up_proj": (self.hidden, self.inner),
            "down_proj": (self.inner, self.hidden),
        }

    @property
    def linear_parameters(self) -> int:
        """The weights of the linear layers of one layer: what a token is multiplied with."""
        return sum(inputs * outputs for inputs, outputs in self.linear.values())

    @property
    def layer_parameters(self) -> int:
        """All weights of one layer."""
        norms = 2 * self.hidden + 2 * self.head_size * self.normalizes_queries
        biases = (self.wide + 2 * self.narrow) if self.model_type in _HAS_BIASES else 0
        return self.linear_parameters + norms + biases

    @property
    def embedding(self) -> int:
        """The weights of the embedding, and those of the LM head: a number for each word and hidden value."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All weights; an LM head that is the embedding counts once."""
        return self.layers * self.layer_parameters + self.hidden + self.embedding * (1 if self.tied else 2)

    def adapter_parameters(self, rank: int, targets: str) -> int:
        """Return the weights of a LoRA adapter on these layers: "all-linear", or names separated by commas."""
        names = [name.strip() for name in targets.split(",")]
        chosen = [size for name, size in self.linear.items() if targets == "all-linear" or name in names]
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in chosen)


def read_shape(model: str, setting: str) -> Shape:
    """Return the shape of the model that the setting named `setting` gives, a folder or a hub name.

    Raises SettingError if its configuration cannot be found or is of a kind that the formulas do not fit.
    """
    named = f"{setting}={model}"
    path = _config_file(model)
    if path is None:
        try:
            return shape_of(known_config(model), named)
        except KeyError:
            raise SettingError(
                f"{named}: its config.json is neither in a folder of that name nor in the hub's cache, and it is not "
                f"one of {', '.join(_table())}. Give a folder with the model's config.json, or run "
                f"`hf download {model} config.json` first."
            ) from None
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"{named}: {path} cannot be read: {one_line(error)}. Give a complete model.") from None
    return shape_of(config, named)


def known_config(model: str) -> dict[str, Any]:
    """Return the entries of the config.json of a well-known model. Raises KeyError for any other."""
    return dict(_table()[model])


def _table() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = json.loads(TABLE.read_text("utf-8"))
    return table


def shape_of(config: Any, named: str) -> Shape:
    """Return the shape that a config.json describes. Raises SettingError for other kinds of models."""
    try:
        config = config.get("text_config") or config
        kind = str(config["model_type"])
        if kind not in KNOWN_TYPES:
            raise SettingError(
                f"{named} is a model of type {kind}; the plan's formulas are those of {', '.join(KNOWN_TYPES)}. "
                "Train without a plan, or plan for a model of one of these types and about that size."
            )
        config = _DEFAULTS[kind] | config
        heads = int(config["num_attention_heads"])
        hidden = int(config["hidden_size"])
        return Shape(
            name=named.partition("=")[2],
            model_type=kind,
            hidden=hidden,
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            key_heads=int(config.get("num_key_value_heads") or heads),
            head_size=int(config.get("head_dim") or hidden // heads),
            inner=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SettingError(
            f"{named}: its config.json does not describe a language model ({type(error).__name__}: {one_line(error)}). "
            "Give a model in the format of transformers."
        ) from None


def _config_file(model: str) -> Path | None:
    """Return the path of the model's config.json on this machine, None if it is not here."""
    folder = Path(model).expanduser()
    if (folder / "config.json").is_file():
        return folder / "config.json"
    if folder.exists() or model.count("/") != 1:
        return None
    if not (_hub_cache() / f"models--{model.replace('/', '--')}").is_dir():
        return None  # found out without the hub's client, which takes longer to import than all else
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json", cache_dir=_hub_cache())
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _hub_cache() -> Path:
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
