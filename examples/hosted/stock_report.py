"""Code that is hosted: a module of dspy's kind, and functions that take too much."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

dspy: Any = import_module("dspy")  # Any: it ships no types


class Report(dspy.Module):  # type: ignore[misc]
    """Looks an item up by a tool of the parent, and has the model write about it."""

    def __init__(self, signature: Any, tools: Sequence[Any]) -> None:
        """Take what the parent gives: its signature and its tools, as dspy's."""
        super().__init__()
        (self.stock,) = tools
        with_count = signature.append("count", dspy.InputField(), int)
        self.write = dspy.ChainOfThought(with_count)

    def forward(self, item: str) -> Any:
        """Ask the parent for the count, and the parent's model for the text."""
        return self.write(item=item, count=self.stock(item=item))


def fill(megabytes: int) -> dict[str, int]:
    """Take that much memory."""
    return {"taken": len(bytearray(megabytes * 1_000_000))}


def burn(rounds: int) -> dict[str, int]:
    """Take a processor for as long as it is left to."""
    return {"sum": sum(range(rounds))}
