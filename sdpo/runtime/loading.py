"""Functions that are named as "module:function", so that naming them imports nothing; and quiet imports."""

import importlib
import logging
from typing import Any


def load(reference: str) -> Any:
    """Return the function, after importing its module."""
    module, _, function = reference.partition(":")
    return getattr(importlib.import_module(module), function)


def quiet_imports() -> None:
    """Hide what libraries print when they are imported and a user can do nothing about."""
    # Imported with the trainer, it warns on some CPUs of a missing package that is not needed here.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
