"""The metric of mipro.py; dspy's process imports it by name."""

from typing import Any


def one_word(example: Any, prediction: Any, trace: Any = None) -> bool:
    """Whether the capital is right, and nothing else is said."""
    return bool(example.capital == prediction.capital)
