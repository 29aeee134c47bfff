"""An agent with a calculator and a look-up, its tools run by a supervised registry."""

import os

import trio

from dspex.modules import Prediction, ReAct, ToolRegistry, calculator, tool
from dspex.providers import LM, OpenAI
from dspex.runtime import open_node

PRICES = {"apple": 0.5, "bread": 3.2, "milk": 1.1}


@tool(timeout=2.0)
def price_of(product: str) -> float:
    """Look up the price of a product, in euros.

    Args:
        product: its name in singular, in lower case
    """
    return PRICES[product]


async def shop(lm: LM, question: str) -> Prediction:
    async with open_node() as node:
        registry = await node.start(ToolRegistry(), name="tools")
        await registry.call(ToolRegistry.register, price_of, "shop")
        await registry.call(ToolRegistry.register, calculator)
        tools = await registry.call(ToolRegistry.list_tools)
        agent = ReAct("question -> total: float", tools, lm=lm, max_iterations=6)
        found = await agent(question=question)
    for step in found.steps:
        print(f"{step.tool}({dict(step.arguments)}) -> {step.observation}")
    print(f"total {found.total} ({found.reason}, {found.usage.total_tokens} tokens)")
    return found


async def main() -> None:
    url = os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1")
    async with OpenAI("gpt-4o-mini", base_url=url) as lm:
        await shop(lm, "What do three apples and two breads cost?")


if __name__ == "__main__":
    trio.run(main)
