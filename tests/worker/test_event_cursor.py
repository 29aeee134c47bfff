"""Reading a run's events on, wherever they are."""

from pathlib import Path
from typing import Any, cast

from dspex import Program, Step
from dspex.testing import ScriptedLM
from dspex.worker.durable import DurableDesk
from dspex.worker.event_cursor import EventCursor
from dspex.worker.open_runtime import open_runtime
from dspex.worker.run_record import RunEvent
from dspex.worker.runs import RunTable


async def test_a_run_followed_while_it_waits_for_a_place_is_told_to_its_end(
    tmp_path: Path,
) -> None:
    step = Step(module="Predict", signature="ticket -> category")
    program = Program(name="triage", steps={"classify": step})
    lm = ScriptedLM(lambda _: '{"category": "billing"}', delay=0.5)
    async with open_runtime(lm, store=tmp_path / "runs.db", max_running=1) as rt:
        # The store counts the events of all runs, this process those of each.
        runs = [await rt.submit(program, {"ticket": str(n)}) for n in range(4)]
        kinds = [event.kind async for event in rt.events(runs[-1])]
        assert kinds[0] == "accepted"
        assert "step_finished" in kinds
        assert kinds[-1] == "finished"


async def test_a_run_that_begins_here_during_a_look_into_the_store_is_read_here() -> (
    None
):
    step = Step(module="Predict", signature="ticket -> category")
    table = RunTable()

    class Desk:
        async def look_events(self, run: str, **_: Any) -> tuple[list[RunEvent], bool]:
            program = Program(name="triage", steps={"classify": step})
            table.adopt(run, program, {}, accepted_at=0.0)
            return [], False

    cursor = EventCursor(table, cast("DurableDesk", Desk()), "r", after=1)
    found = await cursor.take()
    assert found is not None
    assert [event.kind for event in found] == ["accepted", "started"]


async def test_the_end_is_told_to_who_has_read_higher_numbers_elsewhere() -> None:
    stored = [
        RunEvent(number, "r", kind, 0.0, {})
        for number, kind in enumerate(("accepted", "finished"), start=1)
    ]

    class Desk:
        async def look_events(
            self, run: str, *, after: int
        ) -> tuple[list[RunEvent], bool]:
            return [it for it in stored if it.seq > after], True

    cursor = EventCursor(RunTable(), cast("DurableDesk", Desk()), "r", after=7)
    found = await cursor.take()
    assert found is not None
    assert [(event.kind, event.seq) for event in found] == [("finished", 8)]
    assert await cursor.take() is None
