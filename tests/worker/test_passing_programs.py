"""Programs that come with their runs, one after another, and what stays of them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from dspex import App, Program, Step
from dspex.runtime.engine import Effects, Shape, StepResult
from dspex.supervisors import TreeNode
from dspex.testing import ScriptedLM
from dspex.worker import app
from dspex.worker.application import open_app
from dspex.worker.errors import ProgramNotFoundError
from dspex.worker.loaded_programs import LoadedPrograms
from dspex.worker.runs import RunTable


def program(name: str, instructions: str = "Sort.") -> Program:
    step = Step(module="Predict", signature="q -> a", instructions=instructions)
    return Program(name=name, steps={"sort": step})


class Actors:
    """A backend that only knows which steps were started and ended."""

    def __init__(self) -> None:
        self.alive: list[str] = []
        self.may_end = trio.Event()
        self.may_end.set()

    def shape(self, step: Step) -> Shape:
        return Shape({"q": str}, {"a": str})

    async def prepare(self, name: str, step: Step) -> None:
        await trio.lowlevel.checkpoint()
        assert name not in self.alive
        self.alive.append(name)

    async def release(self, name: str, step: Step) -> None:
        await self.may_end.wait()
        self.alive.remove(name)

    async def run(
        self,
        name: str,
        step: Step,
        inputs: Mapping[str, Any],
        *,
        effects: Effects,
        deadline: float,
    ) -> StepResult:
        raise AssertionError("nothing runs here")


def loaded(*, most: int) -> tuple[LoadedPrograms, Actors, RunTable]:
    actors, table = Actors(), RunTable()
    return LoadedPrograms({"native": actors}, table, max_passing=most), actors, table


def names(programs: LoadedPrograms) -> list[str]:
    return sorted(plan.program.name for plan in programs.plans)


async def test_the_one_that_was_not_run_for_longest_is_let_go_of() -> None:
    programs, actors, _ = loaded(most=2)
    for name in ("a", "b", "a", "c"):
        await programs.serve(program(name), lasting=False)
    assert names(programs) == ["a", "c"]
    assert actors.alive == ["a/sort", "c/sort"]
    with pytest.raises(ProgramNotFoundError, match="'b'"):
        programs.named("b")
    await programs.serve(program("b"), lasting=False)
    assert names(programs) == ["b", "c"]


async def test_what_was_loaded_on_purpose_or_is_in_use_stays() -> None:
    programs, actors, table = loaded(most=1)
    await programs.serve(program("kept"), lasting=True)
    plan = await programs.serve(program("used"), lasting=False)
    record, _ = table.accept(program("accepted"), {}, key=None)
    with programs.using(plan):
        for name in ("accepted", "x", "y", "z"):
            await programs.serve(program(name), lasting=False)
        assert names(programs) == ["accepted", "kept", "used", "z"]
    table.finished(record, "succeeded")
    await programs.serve(program("last"), lasting=False)
    assert names(programs) == ["kept", "last"]
    assert actors.alive == ["kept/sort", "last/sort"]


async def test_a_name_is_that_of_the_lasting_program_again() -> None:
    programs, _, _ = loaded(most=1)
    own = program("sort")
    await programs.serve(own, lasting=True)
    other = program("sort", "Sort otherwise.")
    await programs.serve(other, lasting=False)
    assert programs.named("sort") == other
    await programs.serve(program("x"), lasting=False)
    assert programs.named("sort") == own


@pytest.mark.parametrize("why", ["another program", "reload"])
async def test_one_that_is_asked_for_while_it_is_let_go_of_is_loaded_anew(
    why: str,
) -> None:
    programs, actors, _ = loaded(most=1)
    await programs.serve(program("a"), lasting=False)
    actors.may_end = trio.Event()

    async def drive_out() -> None:
        if why == "reload":
            await programs.serve_only([])
        else:
            await programs.serve(program("b"), lasting=False)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drive_out)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(lambda: programs.serve(program("a"), lasting=False))
        await trio.testing.wait_all_tasks_blocked()
        actors.may_end.set()
    assert names(programs) == ["a"]
    assert actors.alive == ["a/sort"]


async def test_who_is_cancelled_while_room_is_made_leaves_no_actor_behind() -> None:
    programs, actors, _ = loaded(most=1)
    await programs.serve(program("a"), lasting=False)
    actors.may_end = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: programs.serve(program("b"), lasting=False))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        actors.may_end.set()
    assert actors.alive == ["b/sort"]
    assert names(programs) == ["b"]


def actors_of(tree: TreeNode) -> int:
    return 1 + sum(actors_of(child) for child in tree.children)


@pytest.mark.parametrize("has_store", [False, True])
async def test_a_runtime_keeps_so_many_programs_that_came_with_a_run(
    *, has_store: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "MAX_PASSING", 40)
    lm = ScriptedLM(lambda _: '{"a": "x"}')
    store = tmp_path / "runs.db" if has_store else None
    async with open_app(App(program("own"), lm=lm), store=store) as rt:
        before = actors_of(rt.tree())
        numbers = iter(range(120))

        async def tenant() -> None:
            for number in numbers:
                run = await rt.run(program(f"tenant-{number}"), q="?")
                assert run.outputs == {"a": "x"}

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(tenant)
        assert len(rt.programs) == 40 + 1
        assert actors_of(rt.tree()) == before + len(rt.programs) - 1
        with pytest.raises(ProgramNotFoundError):
            await rt.run("tenant-0", q="?")
        for again in ("own", program("tenant-0"), "tenant-0"):
            assert (await rt.run(again, q="?")).outputs == {"a": "x"}
