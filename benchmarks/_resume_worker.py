"""The worker that `benchmarks.engine` kills half-way through a run."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import structlog
import trio

from dspex.modules import Module, Predict
from dspex.providers import Message, Request, Response
from dspex.runtime.engine import Program, Step
from dspex.testing import ScriptedLM
from dspex.worker.open_runtime import open_runtime

ANSWER = '{"b": "answer"}'
PROGRAM = Program(name="asks", steps={"s": Step(module="Asks", signature="a -> b")})


class Asks(Module):
    """A program as code that asks one question after another."""

    times = 1_000

    def __init__(self) -> None:
        self.ask = Predict("a -> b")

    async def forward(self, a: str) -> dict[str, object]:
        for n in range(self.times):
            await self.ask(a=f"{a} {n}")
        return {"b": "done"}


class HangingLM(ScriptedLM):
    """Answers so many requests, and leaves the next one waiting."""

    def __init__(self, answers: int) -> None:
        super().__init__(lambda _: ANSWER)
        self._answers = answers

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        if len(self.requests) >= self._answers:
            await trio.sleep_forever()
        return await super().complete(request, timeout=timeout)


async def work(store: Path, effects: int) -> None:
    """Accept a run, print its id when so many effects are on disk, and hang."""
    Asks.times = 2 * effects
    lm = HangingLM(effects)
    async with open_runtime(lm, store=store, modules={"Asks": Asks}) as rt:
        run = await rt.submit(PROGRAM, {"a": "x"})
        while len(await rt.journal.effects(run)) < effects:  # noqa: ASYNC110
            await trio.sleep(0.01)
        print(run, flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("effects", type=int)
    options = parser.parse_args()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR)
    )
    trio.run(work, options.store, options.effects)
