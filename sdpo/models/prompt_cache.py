"""The keys and values of prompts that generation leaves behind, for scoring texts that begin with these prompts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from peft import PeftModel
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class GeneratedCache:
    """What a model's cache holds of the prompts that it has generated from, padded on the left. See PromptCache."""

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], prompts: Sequence[list[int]], width: int) -> None:
        self.layers, self.prompts = layers, prompts
        self.starts = [width - len(prompt) for prompt in prompts]

    def part(self, rows: slice, width: int) -> DynamicCache:
        """Return a cache with the first `width` columns of some rows."""
        cache = DynamicCache()
        for index, (keys_BKLD, values_BKLD) in enumerate(self.layers):
            cache.update(keys_BKLD[rows, :, :width], values_BKLD[rows, :, :width], index)
        return cache


def has_dropout(model: nn.Module) -> bool:
    """Return whether the model drops values while it trains, and so while TRL generates with it, but not in scoring."""
    config: Any = getattr(model, "config", None)
    attention = getattr(config.get_text_config(), "attention_dropout", 0.0) if config is not None else 0.0
    return bool(attention) or any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())


class CacheKeeper:
    """Keeps the cache of the last generation within `keeping`; `take` returns it."""

    def __init__(self) -> None:
        self._cache: Any = None
        self._width = 0

    @contextmanager
    def keeping(self, model: nn.Module) -> Iterator[None]:
        """Keep the cache of what the model, or the one that its adapter is in, generates in this context."""
        self._cache = None
        inner = model.get_base_model() if isinstance(model, PeftModel) else model

        def keep(_: nn.Module, __: tuple, output: Any) -> None:
            cache = getattr(output, "past_key_values", None)
            if cache is not self._cache:  # the first pass, which is that of the prompts
                self._cache, self._width = cache, cache.get_seq_length() if isinstance(cache, DynamicCache) else 0

        hook = inner.register_forward_hook(keep)
        try:
            yield
        finally:
            hook.remove()

    def take(self, prompts: Sequence[list[int]]) -> GeneratedCache | None:
        """Return the cache with the prompts that it is of, and forget it; None if it is not a plain one."""
        cache, self._cache = self._cache, None
        layers = [
            (layer.keys, layer.values)
            for layer in (cache.layers if isinstance(cache, DynamicCache) else [])
            if type(layer) is DynamicLayer and isinstance(layer.keys, Tensor) and isinstance(layer.values, Tensor)
        ]
        if not layers or len(layers) < len(cache.layers) or layers[0][0].shape[0] != len(prompts):
            return None
        return GeneratedCache(layers, prompts, self._width)
