"""Programs as code in a store: they go on where they were, and draw no lot twice."""

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import pytest

from dspex.modules import Module, Predict, run_context
from dspex.runtime.engine import (
    NondeterminismError,
    Program,
    ProgramOptions,
    Step,
    StepFailedError,
)
from dspex.worker.open_runtime import open_runtime
from tests.integration.chain_program import answers
from tests.integration.dspex_command import eventually


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


class Twice(Module):
    """A program as code: the second question depends on the first answer."""

    first = "ticket -> summary"

    def __init__(self) -> None:
        self.summarize = Predict(self.first)
        self.reply = Predict("summary -> reply")

    async def forward(self, ticket: str) -> dict[str, Any]:
        summary = (await self.summarize(ticket=ticket)).summary
        return {"reply": (await self.reply(summary=summary)).reply}


class Changed(Twice):
    first = "ticket -> summary, mood"


def code_program(on_change: Literal["live", "fail"]) -> Program:
    return Program(
        name="code",
        steps={"main": Step(module="Twice", signature="ticket -> reply")},
        options=ProgramOptions(on_change=on_change),
    )


async def interrupt(store: Path, program: Program) -> str:
    """Leave a run of a program as code after its first call."""
    slow = answers(delay=0.3)
    async with open_runtime(slow, store=store, modules={"Twice": Twice}) as rt:
        run = await rt.submit(program, {"ticket": "help"})
        assert await eventually(lambda: len(slow.requests) == 2, seconds=10)
    return run


async def test_a_program_as_code_goes_on_where_it_was(store: Path) -> None:
    run = await interrupt(store, code_program("fail"))
    lm = answers()
    async with open_runtime(lm, store=store, modules={"Twice": Twice}) as rt:
        ended = await rt.result(run, timeout=10)
    assert set(ended.outputs) == {"reply"}
    assert len(lm.requests) == 1
    assert (ended.steps[0].live, ended.steps[0].journaled) == (1, 1)


async def test_code_that_changed_says_so_or_goes_on_live(store: Path) -> None:
    strict = await interrupt(store, code_program("fail"))
    live = await interrupt(store, code_program("live"))
    async with open_runtime(answers(), store=store, modules={"Twice": Changed}) as rt:
        failed = await rt.result(strict, timeout=10)
        ended = await rt.result(live, timeout=10)
    assert isinstance(failed.error, StepFailedError)
    assert isinstance(failed.error.__cause__, NondeterminismError)
    assert ended.status == "succeeded"
    assert (ended.steps[0].live, ended.steps[0].journaled) == (2, 0)


async def test_a_predictor_with_a_model_of_its_own_is_not_paid_twice_either(
    store: Path,
) -> None:
    own = answers()

    class Both(Module):
        def __init__(self) -> None:
            self.first = Predict("ticket -> summary", lm=own)
            self.second = Predict("summary -> reply")

        async def forward(self, ticket: str) -> dict[str, object]:
            summary = (await self.first(ticket=ticket)).summary
            return {"reply": (await self.second(summary=summary)).reply}

    step = Step(module="Both", signature="ticket -> reply")
    program, modules = Program(name="both", steps={"both": step}), {"Both": Both}
    stuck = answers(delay=60)
    async with open_runtime(stuck, modules=modules, store=store) as rt:
        run = await rt.submit(program, {"ticket": "x"})
        assert await eventually(lambda: len(stuck.requests) == 1, seconds=10)
    async with open_runtime(answers(), modules=modules, store=store) as rt:
        ended = await rt.result(run, timeout=10)
        another = await rt.submit(program, {"ticket": "y"})
        whole = await rt.result(another, timeout=10)
        told = [it async for it in rt.events(another) if it.kind == "call_finished"]
    assert [len(it.requests) for it in (own, stuck)] == [2, 1]
    assert [("ticket" in it.data["prompt"][-1]["text"]) for it in told] == [True, False]
    assert (ended.steps[0].live, ended.steps[0].journaled) == (1, 1)
    # What both took counts.
    assert [run.steps[0].usage for run in (ended, whole)] == [whole.steps[0].usage] * 2


class Lottery(Module):
    """Asks the run for time, chance and identity, then a model."""

    def __init__(self) -> None:
        self.ask = Predict("question -> answer")

    async def forward(self, name: str) -> dict[str, object]:
        drawn = [
            (await run_context.now()).isoformat(),
            str((await run_context.random()).random()),
            str(await run_context.uuid()),
            str(await run_context.uuid()),
        ]
        answer = (await self.ask(question=f"{name}: {drawn}")).answer
        return {"drawn": [*drawn, answer]}


async def test_time_chance_and_identity_are_asked_once_in_a_run(store: Path) -> None:
    program = Program(
        name="lottery",
        steps={"draw": Step(module="Lottery", signature="name -> drawn: list[str]")},
    )
    modules = {"Lottery": Lottery}
    stuck = answers(delay=60)
    async with open_runtime(stuck, modules=modules, store=store) as rt:
        run = await rt.submit(program, {"name": "a"})
        assert await eventually(lambda: len(stuck.requests) == 1, seconds=10)
    asked = stuck.requests[0].messages[-1].text
    lm = answers()
    async with open_runtime(lm, modules=modules, store=store) as rt:
        ended = await rt.result(run, timeout=10)
        kinds = Counter(effect.kind for effect in await rt.journal.effects(run))
        # Another run draws anew.
        other = await rt.run(program, name="a")
    drawn: list[str] = ended.outputs["drawn"]
    # The very question that the first process asked: nothing was drawn twice.
    assert lm.requests[0].messages[-1].text == asked
    assert drawn[2] != drawn[3]
    assert kinds == {"context": 4, "model": 1}
    assert not set(drawn) & set(other.outputs["drawn"])


async def test_outside_a_run_they_are_made_up() -> None:
    assert await run_context.uuid() != await run_context.uuid()
    first, second = await run_context.random(), await run_context.random()
    assert first.random() != second.random()
    assert (await run_context.now()).tzinfo is not None
