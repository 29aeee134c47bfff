"""What an agent may take: iterations, tokens, seconds, money."""

from collections.abc import Callable
from dataclasses import dataclass

import trio

from dspex.modules.errors import ConfigError
from dspex.providers.messages import Usage


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of one run; None is no limit.

    `cost` is in the unit that `price` gives for a usage. They are looked at before
    each step, so a run may exceed one by what a single step takes.

    Raises:
        ConfigError: a limit is not positive, or `cost` is without `price`.
    """

    iterations: int = 20
    tokens: int | None = None
    seconds: float | None = None
    cost: float | None = None
    price: Callable[[Usage], float] | None = None

    def __post_init__(self) -> None:
        for name in ("iterations", "tokens", "seconds", "cost"):
            value = getattr(self, name)
            if (
                value is not None
                and value <= 0
                and not (name == "iterations" and value == 0)
            ):
                raise ConfigError(name, value, "must be positive")
        if self.cost is not None and self.price is None:
            raise ConfigError("cost", self.cost, "needs price=, a function of a usage")

    def exceeded(self, usage: Usage, started: float) -> str | None:
        """Name the limit that is reached; `started` is on trio's clock."""
        if self.tokens is not None and usage.total_tokens >= self.tokens:
            return "max_tokens"
        if self.seconds is not None and trio.current_time() - started >= self.seconds:
            return "max_seconds"
        if self.cost is not None and self.price is not None:
            return "max_cost" if self.price(usage) >= self.cost else None
        return None
