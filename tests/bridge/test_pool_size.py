"""The arithmetic of a pool's size, without processes."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from dspex.runtime.bridge import PoolSettings
from dspex.runtime.bridge.pool_queue import PoolQueue
from dspex.runtime.bridge.pool_worker import PoolWorker, Workers
from dspex.worker.open_runtime import POOL


class Bridge:
    is_ending = False


# Any: what a pool asks of a job
def job(*, is_brief: bool = False, is_wanted: bool = True) -> Any:
    answer = SimpleNamespace(is_wanted=is_wanted)
    return SimpleNamespace(
        answer=answer, session=None, is_brief=is_brief, queued_at=0.0
    )


def worker(
    busy: int = 0,
    idle_since: float = 0.0,
    *,
    is_retired: bool = False,
    is_brief: bool = False,
) -> PoolWorker:
    anything = cast("Any", object())  # Any: the arithmetic asks neither
    return PoolWorker(
        anything,
        cast("Any", Bridge()),
        1,
        {cast("Any", object()): job(is_brief=is_brief) for _ in range(busy)},
        is_retired=is_retired,
        idle_since=idle_since,
        born=0.0,
    )


def workers(*members: PoolWorker, **settings: Any) -> Workers:
    all_of_them = Workers(PoolSettings(**settings))
    for member in members:
        all_of_them.add(member)
    return all_of_them


@pytest.mark.parametrize(
    ("settings", "busy", "queued", "wanted"),
    [
        ({}, 0, 0, 2),
        ({"spares": 0}, 0, 0, 1),
        ({"spares": 0, "min_size": 0}, 0, 0, 0),
        ({"spares": 0, "min_size": 0}, 0, 1, 1),
        ({"spares": 2, "max_size": 4}, 3, 0, 5),
        ({"spares": 1, "max_size": 4}, 4, 100, 5),
        ({"spares": 0, "max_size": 4, "concurrency": 8}, 1, 9, 3),
    ],
)
async def test_as_many_as_are_needed_and_the_spares(
    settings: dict[str, Any], busy: int, queued: int, wanted: int
) -> None:
    await trio.lowlevel.checkpoint()
    pool = workers(*(worker(busy=1) for _ in range(busy)), **settings)
    assert pool.wanted(queued=queued) == wanted


async def test_those_on_the_way_are_not_started_again() -> None:
    await trio.lowlevel.checkpoint()
    pool = workers(max_size=4, spares=0)
    pool.starting = 2
    assert pool.missing(queued=3) == 1


async def test_a_run_goes_to_the_idle_process_that_was_used_last() -> None:
    await trio.lowlevel.checkpoint()
    old, fresh, busy = worker(idle_since=1), worker(idle_since=2), worker(busy=1)
    assert workers(old, fresh, busy, concurrency=2).pick(None) is fresh


async def test_spares_take_no_run_over_the_largest_size() -> None:
    await trio.lowlevel.checkpoint()
    busy, spare = worker(busy=1), worker()
    assert workers(busy, spare, max_size=1).pick(None) is None
    assert workers(busy, spare, max_size=1, concurrency=2).pick(None) is busy


async def test_the_longest_idle_end_first_and_the_wanted_stay() -> None:
    await trio.lowlevel.checkpoint()
    first, second, third = (worker(idle_since=t) for t in (1.0, 2.0, 3.0))
    pool = workers(second, third, first, idle_timeout=10, spares=0)
    assert pool.surplus(queued=0, now=11.5) == [first]
    assert pool.surplus(queued=0, now=100) == [first, second]


async def test_a_brief_run_has_a_process_beside_the_largest_size() -> None:
    await trio.lowlevel.checkpoint()
    busy, spare = worker(busy=1), worker()
    assert workers(busy, spare, max_size=1).pick(None, is_brief=True) is spare
    pool = workers(busy, max_size=1, spares=0)
    assert pool.missing(queued=1) == 0
    assert pool.missing(queued=1, is_one_brief=True) == 1
    pool.starting = 1
    assert pool.missing(queued=1, is_one_brief=True) == 0


async def test_a_brief_run_takes_no_place_from_others() -> None:
    await trio.lowlevel.checkpoint()
    brief, free = worker(busy=1, is_brief=True), worker()
    assert workers(brief, free, max_size=1).pick(None) is free


async def test_a_brief_run_goes_first() -> None:
    await trio.lowlevel.checkpoint()
    pool = workers(worker(busy=1), worker(), max_size=1)
    queue = PoolQueue(PoolSettings())
    long, brief = job(), job(is_brief=True)
    queue.put(long)
    assert queue.take(pool) is None
    assert not queue.begins_briefly
    queue.put(brief)
    assert queue.begins_briefly
    found = queue.take(pool)
    assert found is not None
    assert found[0] is brief


async def test_those_on_their_way_out_keep_no_run_from_the_new_ones() -> None:
    await trio.lowlevel.checkpoint()
    old = [worker(busy=1, is_retired=True) for _ in range(4)]
    fresh = worker()
    pool = workers(*old, fresh, max_size=4, spares=1)
    assert pool.pick(None) is fresh
    assert pool.missing(queued=1) == 1


@pytest.mark.parametrize("settings", [POOL, PoolSettings(max_size=1)])
async def test_a_run_waits_as_long_as_its_caller_does(settings: PoolSettings) -> None:
    await trio.lowlevel.checkpoint()
    queue = PoolQueue(settings)
    patient = job()
    queue.put(patient)
    assert queue.expire(7 * 86_400.0, "pool") == 0
    found = queue.take(workers(worker()))
    assert found is not None
    assert found[0] is patient


async def test_what_nobody_waits_for_any_more_is_dropped_when_its_turn_comes() -> None:
    await trio.lowlevel.checkpoint()
    queue = PoolQueue(PoolSettings())
    for it in (job(is_wanted=False), job(), job()):
        queue.put(it)
    queue.take(workers(worker()))
    assert len(queue) == 1
