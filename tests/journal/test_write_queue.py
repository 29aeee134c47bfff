"""What waits for the writer is bounded, by number and by bytes."""

import math

import pytest
import structlog.testing
import trio
import trio.testing

from dspex.runtime.journal import AddEvent, Fence, RecordEffect
from dspex.runtime.journal.write_queue import (
    MAX_BATCH_BYTES,
    MAX_QUEUE_BYTES,
    WriteQueue,
    WriteTimeoutError,
)
from dspex.runtime.timers import Timers
from tests.journal.conftest import effect_of

MIB = 1024**2
FENCE = Fence("r", "w", 1)


def sized(size: int, occurrence: int = 0) -> RecordEffect:
    return effect_of(FENCE, occurrence, "x" * size)


@pytest.fixture
async def queue(nursery: trio.Nursery) -> WriteQueue:
    queue, timers = WriteQueue(), Timers()
    nursery.start_soon(timers.run)
    queue.open(timers)
    return queue


async def fill(queue: WriteQueue, nursery: trio.Nursery, size: int = 4 * MIB) -> None:
    """Have as much wait as may wait."""
    for index in range(MAX_QUEUE_BYTES // size):
        nursery.start_soon(queue.ask, sized(size, index), math.inf)
    await trio.testing.wait_all_tasks_blocked()


async def test_who_asks_waits_for_room_when_the_bytes_are_too_many(
    queue: WriteQueue, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    await fill(queue, nursery)
    with pytest.raises(WriteTimeoutError):
        await queue.ask(effect_of(FENCE, 99), trio.current_time() + 5)
    nursery.start_soon(queue.ask, effect_of(FENCE, 100), math.inf)
    taken: list[int] = []
    while 100 not in taken:
        for pending in await queue.take():
            taken.append(getattr(pending.write, "occurrence", -1))
            pending.reply(None)
    assert sorted(taken) == [*range(16), 100]


async def test_a_commit_has_no_more_bytes_than_a_batch_may_have(
    queue: WriteQueue, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    await fill(queue, nursery)
    sizes = [sum(it.size for it in await queue.take()) for _ in range(4)]
    assert max(sizes) < MAX_BATCH_BYTES + 4 * MIB


async def test_a_write_larger_than_the_queue_passes(
    queue: WriteQueue, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    nursery.start_soon(queue.ask, sized(MAX_QUEUE_BYTES + 1), math.inf)
    assert len(await queue.take()) == 1


async def test_notes_too_many_by_their_bytes_are_dropped_and_told(
    queue: WriteQueue, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    await fill(queue, nursery)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            queue.note(AddEvent(FENCE, 1.0, "kind", "{}"))
        taken = [it for _ in range(4) for it in await queue.take()]
    assert len(taken) == 16
    told = [log["events"] for log in logs if log["event"] == "events_dropped"]
    assert told == [3]
