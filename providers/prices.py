"""What tokens cost."""

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import msgspec

from dspex.providers.messages import Usage


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens; `cached` for input from the provider's cache."""

    input: float
    output: float
    cached: float

    def cost(self, usage: Usage) -> float:
        """Give what a usage costs, in US dollars."""
        fresh = usage.input_tokens - usage.cached_tokens
        return (
            fresh * self.input
            + usage.cached_tokens * self.cached
            + usage.output_tokens * self.output
        ) / 1e6


def read_prices() -> dict[str, Price]:
    """Give the prices that come with dspex, by the name of the model.

    They are list prices of the month told in `prices.json`: pass your own where they
    matter.
    """
    text = files("dspex.providers").joinpath("prices.json").read_bytes()
    table: dict[str, Any] = msgspec.json.decode(text)  # Any: JSON
    return {name: Price(*numbers) for name, numbers in table["models"].items()}
