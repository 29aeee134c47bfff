"""What tokens cost."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from dspex.providers.messages import Response, Usage


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


def response_cost(model: str, response: Response) -> float | None:
    """Give what an answer cost in US dollars; None where the price is not known.

    `model` is an LM's name. Of several in order ("a|b", a fallback) it is the one that
    the answer says it is from.
    """
    if "|" in model:
        names = [
            name
            for name in model.split("|")
            if response.model.startswith(name.partition(":")[2])
        ]
        model = max(names, key=len, default="")
    price = _listed().get(model)
    return None if price is None else price.cost(response.usage)


def usage_cost(model: str, usage: Usage) -> float | None:
    """Give what a usage cost in US dollars; None where the price is not known.

    Of several models in order ("a|b", a fallback) it is taken for the dearest's.
    """
    prices = [_listed().get(name) for name in model.split("|")]
    known = [price.cost(usage) for price in prices if price is not None]
    return max(known) if len(known) == len(prices) else None


@cache
def _listed() -> dict[str, Price]:
    return read_prices()
