import pytest

from dspex.providers import (
    Budget,
    Budgeted,
    BudgetExceededError,
    Choice,
    ConfigurationError,
    Price,
    Response,
    Usage,
    read_prices,
)
from dspex.testing import ScriptedLM

ANSWER = Response((Choice("x"),), Usage(1_000, 500, cached_tokens=200), "m")


def model(name: str = "openai:gpt-4o-mini") -> ScriptedLM:
    return ScriptedLM(lambda _: ANSWER, name=name)


@pytest.mark.parametrize(
    ("budget", "calls", "what"),
    [
        (Budget(requests=3), 3, "3 requests"),
        (Budget(tokens=3_000), 2, "3000 tokens"),
        (Budget(tokens=3_001), 3, "3001 tokens"),
        (Budget(cost=0.0009), 3, r"0\.0009 cost"),
    ],
)
async def test_a_used_up_budget_refuses_the_next_request(
    budget: Budget, calls: int, what: str
) -> None:
    lm = model()
    budgeted = Budgeted(lm, budget)
    for _ in range(calls):
        await budgeted.complete("x")
    with pytest.raises(BudgetExceededError, match=what):
        await budgeted.complete("x")
    assert len(lm.requests) == calls
    assert budget.usage.total_tokens == 1_500 * calls


async def test_a_budget_is_shared_by_the_models_of_a_run() -> None:
    budget = Budget(requests=2)
    first, second = Budgeted(model("a:a"), budget), Budgeted(model("b:b"), budget)
    await first.complete("x")
    await second.complete("x")
    with pytest.raises(BudgetExceededError):
        await first.complete("x")


def test_cached_tokens_have_their_own_price() -> None:
    price = Price(input=1.0, output=2.0, cached=0.1)
    assert price.cost(Usage(1_000_000, 1_000_000, 500_000)) == pytest.approx(2.55)


async def test_a_cost_needs_a_price() -> None:
    lm = model("own:model")
    with pytest.raises(ConfigurationError, match="own 'model'"):
        await Budgeted(lm, Budget(cost=1.0)).complete("x")
    assert lm.requests == []
    budget = Budget(cost=1.0, prices={"own:model": Price(1.0, 1.0, 1.0)})
    await Budgeted(lm, budget).complete("x")
    assert budget.cost == pytest.approx(0.0015)


def test_the_price_table_can_be_read() -> None:
    prices = read_prices()
    assert prices["openai:gpt-4o-mini"] == Price(0.15, 0.6, 0.075)
    assert all(price.cached <= price.input <= price.output for price in prices.values())


async def test_a_stream_counts_what_it_took() -> None:
    budget = Budget(tokens=1_500)
    budgeted = Budgeted(model(), budget)
    async with budgeted.stream("x") as stream:
        assert (await stream.read()).usage == ANSWER.usage
    assert budget.usage == ANSWER.usage
    with pytest.raises(BudgetExceededError, match="1500 tokens"):
        async with budgeted.stream("x"):
            pass


async def test_a_stream_left_early_is_estimated() -> None:
    budget = Budget()
    lm = ScriptedLM(["0123456789abcdef" * 10])
    async with Budgeted(lm, budget).stream("x" * 4_000) as stream:
        await anext(stream)
        await anext(stream)
    assert budget.requests == 1
    assert 1_000 <= budget.usage.input_tokens < 1_100
    assert budget.usage.output_tokens == 2
