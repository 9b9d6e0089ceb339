"""Functions that are named as "module:function", so that naming them imports nothing."""

import importlib
from typing import Any


def load(reference: str) -> Any:
    """Return the function, after importing its module."""
    module, _, function = reference.partition(":")
    return getattr(importlib.import_module(module), function)
