"""How often the store is looked into for those who wait for its runs."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

pytest.importorskip("starlette")

from starlette.types import Message

from dspex import Program, Step
from dspex.runtime.engine.run_board import RunBoard
from dspex.runtime.journal import Event, Journal
from dspex.worker.durable import DurableDesk
from dspex.worker.event_cursor import EventCursor
from dspex.worker.run_record import RunEvent
from dspex.worker.run_stream import RunStream, Streams
from dspex.worker.runs import RunTable


async def test_thousands_who_wait_for_a_run_share_the_readers_of_the_store(
    autojump_clock: trio.testing.MockClock,
) -> None:
    looks: list[str] = []

    class Store:
        async def run(self, run: str) -> Any:  # Any: of a row, what is asked here
            looks.append(run)
            return SimpleNamespace(is_finished=False)

    board = RunBoard(max_runs=1, on_end=RunTable().settle)
    desk = DurableDesk(cast("Journal", Store()), cast("Any", None), board)
    runs = [str(n) for n in range(1_000)]
    with trio.move_on_after(20.5):
        async with trio.open_nursery() as nursery:
            for run in runs:
                nursery.start_soon(desk.result, run)
    # Once at first, and then every five seconds; a few look as often as ever.
    assert len(looks) == 5 * len(runs)
    looks.clear()
    with trio.move_on_after(20.1):
        await desk.result("one")
    assert len(looks) == 81


@pytest.mark.parametrize(("streams", "looks_of_each"), [(1, 41), (1_000, 3)])
async def test_thousands_of_streams_share_the_readers_of_the_store(
    streams: int, looks_of_each: int, autojump_clock: trio.testing.MockClock
) -> None:
    table, looks, sent = RunTable(), list[str](), list[Message]()
    step = Step(module="Predict", signature="ticket -> category")
    program = Program(name="triage", steps={"classify": step})

    class Desk:
        async def look_events(self, run: str, **_: Any) -> tuple[list[RunEvent], bool]:
            looks.append(run)
            return [], False

    async def receive() -> Message:
        await trio.sleep_forever()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    opened = Streams(table)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(opened.tick)
        for n in range(streams):
            cursor = EventCursor(table, cast("DurableDesk", Desk()), str(n), after=0)
            nursery.start_soon(RunStream(cursor, opened).send, receive, send)
        await trio.sleep(10.1)
        assert len(looks) == pytest.approx(looks_of_each * streams, abs=1)
        sent.clear()
        table.adopt("0", program, {}, accepted_at=0.0)
        await trio.sleep(0.3)
        assert [b"started" in it["body"] for it in sent] == [True]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("readers", "looks_of_each"), [(1, 80), (1_000, 5)])
async def test_thousands_who_read_the_events_of_a_run_share_the_readers_of_the_store(
    readers: int, looks_of_each: int, autojump_clock: trio.testing.MockClock
) -> None:
    looks: list[str] = []

    class Store:
        async def run(self, run: str) -> Any:  # Any: as above
            looks.append(run)
            return SimpleNamespace(is_finished=False)

        async def events(self, run: str, *, after: int) -> list[Event]:
            return []

    table = RunTable()
    board = RunBoard(max_runs=1, on_end=table.settle)
    desk = DurableDesk(cast("Journal", Store()), cast("Any", None), board)
    with trio.move_on_after(19.9):
        async with trio.open_nursery() as nursery:
            for number in range(readers):
                cursor = EventCursor(table, desk, str(number), after=0)
                nursery.start_soon(cursor.next)
    assert len(looks) == pytest.approx(looks_of_each * readers, rel=0.05)
