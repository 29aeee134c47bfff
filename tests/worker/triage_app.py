"""An app with one step that a scripted model answers, and asyncio to host it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dspex import App, Program, Step
from dspex.testing import ScriptedLM

T = TypeVar("T")
ANSWER = '{"category": "billing"}'


def program(name: str = "triage") -> Program:
    step = Step(module="Predict", signature="ticket -> category")
    return Program(name=name, steps={"classify": step})


def app(*, delay: float = 0.0) -> App:
    return App(program(), lm=ScriptedLM(lambda _: ANSWER, delay=delay))


def in_asyncio(main: Callable[[], Awaitable[T]]) -> T:
    async def bounded() -> T:
        async with asyncio.timeout(30):
            return await main()

    return asyncio.run(bounded())
