"""Budgets: how much a run may ask for, use and cost."""

import json
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

from dspex.providers.errors import BudgetExceededError, ConfigurationError
from dspex.providers.lm import LM, Wrapper
from dspex.providers.messages import Message, Request, Response, Usage
from dspex.providers.prices import Price, read_prices
from dspex.providers.streams import (
    Delta,
    ResponseStream,
    TextDelta,
    streaming,
    watched,
)


class Budget:
    """What a run may use; shared by all its models, counted as calls end.

    `cost` is in US dollars and needs a price for every model. A limit that is reached
    refuses the next request; calls under way at that moment are still counted, so the
    sums may end above it.
    """

    def __init__(
        self,
        *,
        requests: int | None = None,
        tokens: int | None = None,
        cost: float | None = None,
        prices: Mapping[str, Price] | None = None,
    ) -> None:
        self._limits = {"requests": requests, "tokens": tokens, "cost": cost}
        self._prices = prices
        self.requests = 0
        self.usage = Usage()
        self.cost = 0.0

    def begin(self, model: str) -> None:
        """Count a request that is about to be sent.

        Raises:
            BudgetExceededError: a limit is reached.
            ConfigurationError: cost is limited, and the model has no price.
        """
        provider, _, name = model.partition(":")
        if self._limits["cost"] is not None and self._price(model) is None:
            raise ConfigurationError(
                "the budget limits the cost, and this model has no price",
                provider=provider,
                model=name,
                remedy=f"pass prices={{{model!r}: Price(...)}}",
            )
        spent = {
            "requests": self.requests,
            "tokens": self.usage.total_tokens,
            "cost": self.cost,
        }
        for what, limit in self._limits.items():
            if spent[what] >= (math.inf if limit is None else limit):
                raise BudgetExceededError(
                    f"the budget of {limit:g} {what} is used up ({spent[what]:g})",
                    provider=provider,
                    model=name,
                )
        self.requests += 1

    def end(self, model: str, usage: Usage) -> None:
        """Count what a call took."""
        self.usage += usage
        price = self._price(model)
        if price is not None:
            self.cost += price.cost(usage)

    def _price(self, model: str) -> Price | None:
        if self._prices is None:
            self._prices = read_prices()
        return self._prices.get(model)


class Budgeted(Wrapper[LM]):
    """Puts a budget before a model."""

    def __init__(self, lm: LM, budget: Budget) -> None:
        super().__init__(lm)
        self._budget = budget

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        """Send one request if the budget lets it; see `LM.complete`.

        Raises:
            BudgetExceededError: a limit of the budget is reached.
            ProviderError: there is no answer; its subclass and attributes say why.
        """
        self._budget.begin(self.name)
        response = await self._lm.complete(request, timeout=timeout)
        self._budget.end(self.name, response.usage)
        return response

    @asynccontextmanager
    async def stream(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> AsyncGenerator[ResponseStream]:
        """Stream the answer if the budget lets it; see `StreamingLM.stream`.

        The provider tells what a stream took at its end. One that was left early or
        broke off is counted by an estimate, of four characters a token.

        Raises:
            BudgetExceededError: a limit of the budget is reached.
            ProviderError: there is no answer; its subclass and attributes say why.
        """
        request = Request.of(request)
        lm = streaming(self._lm)
        self._budget.begin(self.name)
        characters = 0
        usage: Usage | None = None

        def count(delta: Delta) -> None:
            nonlocal characters
            more = delta.text if isinstance(delta, TextDelta) else delta.arguments
            characters += len(more)

        async def end(response: Response) -> None:
            nonlocal usage
            usage = response.usage

        async with lm.stream(request, timeout=timeout) as stream:
            try:
                yield watched(stream, on_delta=count, on_end=end)
            finally:
                if usage is None:
                    asked = len(json.dumps(request.to_json()["messages"]))
                    usage = Usage(math.ceil(asked / 4), math.ceil(characters / 4))
                self._budget.end(self.name, usage)
