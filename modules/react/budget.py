"""What an agent may take: iterations, tokens, seconds, money."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import trio

from dspex.modules.errors import ConfigError
from dspex.providers.messages import Usage
from dspex.providers.prices import usage_cost

SPENT: Final = ("max_tokens", "max_seconds", "max_cost")
"""The reasons of an end after which nothing more may be asked of the model."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of one run; None is no limit.

    `cost` is in the unit that `price` gives for a usage; without `price`, in US dollars
    at the list price of the model. They are looked at before each step, so a run may
    exceed one by what a single step takes.

    Raises:
        ConfigError: a limit is no number, or not positive, or half an iteration.
    """

    iterations: int = 20
    tokens: int | None = None
    seconds: float | None = None
    cost: float | None = None
    price: Callable[[Usage], float] | None = None

    def __post_init__(self) -> None:
        for name in ("iterations", "tokens", "seconds", "cost"):
            value: object = getattr(self, name)
            if value is None and name != "iterations":
                continue
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ConfigError(name, value, "must be a number")
            if math.isnan(value):
                raise ConfigError(name, value, "must be a number, which NaN is not")
            if name == "iterations" and not isinstance(value, int):
                raise ConfigError(name, value, "must be a whole number")
            if value <= 0 and not (name == "iterations" and value == 0):
                raise ConfigError(name, value, "must be positive")

    def exceeded(self, usage: Usage, started: float, *, model: str) -> str | None:
        """Name the limit that is reached; `started` is on trio's clock.

        Raises:
            ConfigError: there is a limit of cost, and the model has no price.
        """
        if self.tokens is not None and usage.total_tokens >= self.tokens:
            return "max_tokens"
        if self.seconds is not None and trio.current_time() - started >= self.seconds:
            return "max_seconds"
        if self.cost is not None and self._cost(usage, model) >= self.cost:
            return "max_cost"
        return None

    def _cost(self, usage: Usage, model: str) -> float:
        if self.price is not None:
            return self.price(usage)
        cost = usage_cost(model, usage)
        if cost is None:
            raise ConfigError(
                "cost", self.cost, f"needs price=: {model!r} has no list price"
            )
        return cost
