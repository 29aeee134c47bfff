"""dspy itself, imported by name: it is not installed where types are checked."""

import functools
import importlib
from typing import Any


@functools.cache
def load_dspy() -> Any:  # Any: a module without types
    """Give dspy; the first call imports it, later ones cost nothing."""
    return importlib.import_module("dspy")


@functools.cache
def load_lm15() -> Any:  # Any: a module without types
    """Give dspy's vocabulary of requests and responses."""
    return importlib.import_module("dspy.lm15")
