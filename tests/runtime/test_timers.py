import gc
import math
import weakref
from collections.abc import Callable

import pytest
import trio
import trio.testing

from dspex.runtime.timers import Timer, Timers


def nothing() -> None:
    pass


class Order:
    """Notes the virtual time at which each timer fired."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float]] = []

    def at(self, seconds: float, name: str) -> Timer:
        return Timer(
            trio.current_time() + seconds,
            lambda: self.seen.append((name, trio.current_time())),
        )


async def test_each_expires_at_its_own_deadline_whatever_the_order_of_arrival(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    timers, order = Timers(), Order()
    nursery.start_soon(timers.run)
    for seconds, name in ((3, "c"), (1, "a"), (2, "b")):
        timers.add(order.at(seconds, name))
    await trio.sleep(1.5)
    timers.add(order.at(0.25, "late"))
    await trio.sleep(10)
    assert order.seen == [("a", 1), ("late", 1.75), ("b", 2), ("c", 3)]


async def test_what_is_added_while_others_expire_is_not_lost(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    timers, order = Timers(), Order()
    nursery.start_soon(timers.run)

    def again() -> None:
        timers.add(order.at(1, "second"))

    timers.add(Timer(1, again))
    await trio.sleep(5)
    assert order.seen == [("second", 2)]


async def test_a_cancelled_one_does_not_fire(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    timers, order = Timers(), Order()
    nursery.start_soon(timers.run)
    timer = order.at(1, "never")
    timers.add(timer)
    assert timer.cancel()
    assert not timer.cancel()
    await trio.sleep(5)
    assert order.seen == []


@pytest.mark.parametrize("waiting", [0, 1_000])
async def test_settled_entries_do_not_pile_up(waiting: int) -> None:
    timers = Timers()
    kept = [Timer(math.inf, nothing) for _ in range(waiting)]
    for timer in kept:
        timers.add(timer)
    alive: weakref.WeakSet[Noted] = weakref.WeakSet()

    def one_that_settles() -> None:
        timer = Noted(5.0, nothing)
        alive.add(timer)
        timers.add(timer)
        timer.cancel()

    for _ in range(20_000):
        one_that_settles()
    gc.collect()
    assert len(alive) <= max(256, waiting)


class Noted(Timer):
    """A timer that can be watched."""

    __slots__ = ("__weakref__",)


async def test_thousands_that_wait_expire_in_order(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    timers = Timers()
    nursery.start_soon(timers.run)
    fired: list[int] = []

    def note(number: int) -> Callable[[], None]:
        return lambda: fired.append(number)

    for number in range(3_000):
        timers.add(Timer(3_000 - number, note(number)))
    await trio.sleep(3_001)
    assert fired == list(range(2_999, -1, -1))
