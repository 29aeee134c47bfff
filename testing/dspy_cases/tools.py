"""The tools that the ReAct cases use: their names, types and results are given."""

from collections.abc import Callable, Mapping
from typing import Any, Final

_FACTS: Final = {
    "paris": "Paris is the capital of France.",
    "rome": "Rome is the capital of Italy.",
    "pi": "3.14159",
}


def add(a: int, b: int) -> int:
    """Add two integers."""
    return a + b


def lookup(key: str) -> str:
    """Look a key up in the table."""
    return _FACTS[key]


def search(query: str, k: int = 2) -> list[str]:
    """Search for passages."""
    return [f"passage {number} about {query}" for number in range(k)]


# The docstrings are given: they are what the model is told.
def fail(reason: str) -> str:
    """Always fails."""  # noqa: D401
    raise ValueError(f"tool failed: {reason}")


def now() -> str:
    """The current date."""  # noqa: D401
    return "2026-01-01"


def concat(parts: list[str], sep: str = ",") -> str:
    """Join the parts."""
    return sep.join(parts)


def scale(x: float, factor: float = 2.0) -> dict[str, float]:
    """Scale a number."""
    return {"x": x, "scaled": x * factor}


async def aweather(city: str) -> str:
    """Weather of a city (an async tool)."""
    return f"sunny in {city}"


def anything(**kwargs: object) -> str:
    """Accepts any argument."""  # noqa: D401
    return ",".join(sorted(kwargs))


# Any: each tool has its own types.
TOOLS: Final[Mapping[str, Callable[..., Any]]] = {
    function.__name__: function
    for function in (
        add,
        lookup,
        search,
        fail,
        now,
        concat,
        scale,
        aweather,
        anything,
    )
}
