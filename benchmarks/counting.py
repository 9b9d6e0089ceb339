"""What a busy machine does not change: bytes alive at once, and the tokens that a model processes."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations return inside this context, while they exist.

    `peak` is the most at one time, `largest` the largest tensor. Tensors from before the context are not counted, nor
    is what an operation allocates and frees by itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = self.largest = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run the operation and count what it returns."""
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._sizes:
            return
        self._sizes[key] = size
        self.alive += size
        self.peak, self.largest = max(self.peak, self.alive), max(self.largest, size)
        weakref.finalize(storage, self._remove, key)

    def _remove(self, key: int) -> None:
        self.alive -= self._sizes.pop(key, 0)


@dataclass
class Passes:
    """What went through a model: forward passes, and tokens with padding, with and without a gradient."""

    forwards: int = 0
    tokens: int = 0
    tokens_with_gradient: int = 0


@contextmanager
def counted_passes(model: nn.Module) -> Iterator[Passes]:
    """Count the model's forward passes inside the context, by the input of its first decoder layer."""
    passes = Passes()
    layer = next(module for name, module in model.named_modules() if name.endswith("layers.0"))

    def count(module: nn.Module, args: tuple, kwargs: dict) -> None:
        hidden_BLH = args[0] if args else kwargs["hidden_states"]
        size = hidden_BLH.shape[0] * hidden_BLH.shape[1]
        passes.forwards += 1
        passes.tokens += size
        passes.tokens_with_gradient += size * torch.is_grad_enabled()

    handle = layer.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield passes
    finally:
        handle.remove()
