"""What dspy's adapters make anew for each field of each prompt, kept by class.

dspy writes a value into a prompt by a new pydantic `TypeAdapter` of the value's class:
three for a question and an answer, a quarter of all that a `dspy.Predict` computes.
"""

import functools
import importlib
from typing import Any

import pydantic

_KEPT = 256


def remember_type_adapters() -> None:
    """Have dspy's adapters make one `TypeAdapter` a class; it changes nothing else."""
    utils: Any = importlib.import_module("dspy.adapters.utils")  # Any: no types there
    if utils.TypeAdapter is pydantic.TypeAdapter:
        utils.TypeAdapter = _adapter_of


@functools.lru_cache(_KEPT)
def _adapter_of_class(kind: type) -> "pydantic.TypeAdapter[Any]":
    return pydantic.TypeAdapter(kind)


# Any: annotations of every kind.
def _adapter_of(kind: Any) -> "pydantic.TypeAdapter[Any]":
    # Only classes: of unions, equal ones may differ in their order, which counts.
    if isinstance(kind, type):
        return _adapter_of_class(kind)
    return pydantic.TypeAdapter(kind)
