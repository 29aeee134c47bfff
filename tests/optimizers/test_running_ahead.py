"""What a compile asks ahead of its turn: never more calls than it was allowed."""

import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from dspex.modules import ChatAdapter, Module, Predict, Prediction, run_context
from dspex.modules.optimizers import (
    BootstrapFewShot,
    Dataset,
    Evaluate,
    JournaledWork,
    exact_match,
    open_work,
)
from dspex.providers import Message, Request, Response
from dspex.runtime import open_node
from dspex.runtime.journal import WRITER, Journal, open_store
from dspex.runtime.journal.writes import CancelRun
from dspex.testing import ScriptedLM

NEEDED = 3


class ThreeCalls(Module):
    """Asks three times for one answer."""

    def __init__(self) -> None:
        self.first = Predict("question -> answer", adapter=ChatAdapter())
        self.second = Predict("question -> answer", adapter=ChatAdapter())
        self.third = Predict("question -> answer", adapter=ChatAdapter())

    async def forward(self, question: str) -> Prediction:
        await self.first(question=question)
        await self.second(question=question)
        return await self.third(question=question)


def number_of(request: Request) -> int:
    return int(request.messages[-1].text.split("\n")[1].split()[1])


def knows_every_third(request: Request) -> str:
    number = number_of(request)
    return f"[[ ## answer ## ]]\n{number if number % 3 == 1 else '?'}"


class Uneven(ScriptedLM):
    """A model whose answers take between nothing and a second."""

    def __init__(self, seed: int) -> None:
        super().__init__(knows_every_third)
        self._random = random.Random(seed)

    async def complete(
        self,
        request: Request | str | Sequence[Message],
        *,
        timeout: float | None = None,
    ) -> Response:
        response = await super().complete(request, timeout=timeout)
        await trio.sleep(self._random.random())
        return response


def examples(count: int = 16) -> Dataset:
    rows = [{"question": f"Item {i}", "answer": str(i)} for i in range(count)]
    return Dataset.from_rows(rows, inputs=["question"])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_extra", [0, 1, 5, 16])
async def test_calls_for_nothing_are_never_more_than_max_extra(
    autojump_clock: trio.testing.MockClock, max_extra: int, seed: int
) -> None:
    async def compile_with(concurrency: int) -> tuple[int, int, list[int]]:
        lm = Uneven(seed)
        optimizer = BootstrapFewShot(
            metric=exact_match(),
            max_bootstrapped_demos=NEEDED,
            max_labeled_demos=0,
            max_rounds=2,
            concurrency=concurrency,
            max_extra=max_extra,
        )
        report = (await optimizer.compile(ThreeCalls(), examples(), lm=lm)).report
        demos = [source.example for source in report.demos["third"]]
        return len(lm.requests), report.extra_calls, demos

    needed, nothing, demos = await compile_with(1)
    asked, extra, same = await compile_with(8)
    assert demos == same == [1, 4, 7]
    assert nothing == 0
    assert asked - needed == extra <= max_extra


async def test_waiting_to_be_needed_is_not_of_an_examples_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The second example asks once ahead, and twice more when the first is taken."""
    optimizer = BootstrapFewShot(
        metric=exact_match(),
        max_bootstrapped_demos=1,
        concurrency=2,
        max_extra=1,
        timeout=3.5,
    )
    lm = ScriptedLM(knows_every_third, delay=1)
    made = await optimizer.compile(ThreeCalls(), examples(2), lm=lm)
    assert made.report.demos["third"][0].example == 1
    assert made.report.errors == 0
    assert made.report.seconds == pytest.approx(5)


async def test_an_example_that_takes_too_long_after_a_wait_is_an_error(
    autojump_clock: trio.testing.MockClock,
) -> None:
    optimizer = BootstrapFewShot(
        metric=exact_match(),
        max_bootstrapped_demos=1,
        concurrency=2,
        max_extra=1,
        timeout=2.5,
    )
    lm = ScriptedLM(knows_every_third, delay=1)
    made = await optimizer.compile(ThreeCalls(), examples(2), lm=lm)
    assert (made.report.bootstrapped, made.report.errors) == (0, 2)
    assert made.report.seconds == pytest.approx(4)


class Lottery(Module):
    """Draws its question by the run's own chance."""

    def __init__(self) -> None:
        self.ask = Predict("question -> answer", adapter=ChatAdapter())

    async def forward(self, question: str) -> Prediction:
        drawn = (await run_context.random()).randrange(1_000_000)
        return await self.ask(question=f"{question} of {drawn}")


@asynccontextmanager
async def opened(folder: Path) -> AsyncGenerator[tuple[Journal, JournaledWork]]:
    async with open_store(folder / "runs.db") as store, open_node() as node:
        journal = Journal(store)
        await node.start(journal.writer(), name=WRITER)
        async with open_work(journal, name="lottery", what={}) as work:
            yield journal, work


async def test_work_that_was_given_up_goes_on_and_keeps_what_it_asks(
    tmp_path: Path,
) -> None:
    """Chance included; what is asked when it goes on is kept as before."""
    lm = ScriptedLM(knows_every_third)
    for size, is_whole in ((3, False), (6, False), (6, True)):
        async with opened(tmp_path) as (_, work):
            assert not work.is_finished
            evaluate = Evaluate(examples(size), metric=exact_match(), concurrency=2)
            found = await evaluate(Lottery(), lm=lm, journal=work)
            if is_whole:
                await work.finish({"score": found.score})
        assert len(lm.requests) == size
    assert found.replayed == 6
    async with opened(tmp_path) as (_, work):
        assert work.is_finished


async def test_cancelled_work_answers_with_what_is_kept_and_adds_nothing(
    tmp_path: Path,
) -> None:
    lm = ScriptedLM(knows_every_third)
    evaluate = Evaluate(examples(2), metric=exact_match())
    async with opened(tmp_path) as (journal, work):
        await evaluate(Lottery(), lm=lm, journal=work)
        await journal.write(CancelRun(work.id, 0.0))
    more = Evaluate(examples(3), metric=exact_match())
    async with opened(tmp_path) as (journal, work):
        found = await more(Lottery(), lm=lm, journal=work)
        await work.finish({})
        assert (found.calls, found.replayed) == (3, 2)
        assert len(await journal.effects(work.id)) == 4
