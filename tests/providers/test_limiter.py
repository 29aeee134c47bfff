import time
from collections.abc import AsyncGenerator

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from dspex.providers import (
    LimitExceededError,
    Limits,
    RateLimiter,
    SharedLimiter,
    as_caller,
)
from dspex.runtime import ActorRef, Node, open_node
from dspex.supervisors import ChildSpec, Supervisor


@pytest.fixture
async def node() -> AsyncGenerator[Node]:
    async with open_node() as node:
        yield node


async def start(node: Node, limits: Limits, *, waits: bool = True) -> SharedLimiter:
    await node.start(RateLimiter(limits, waits=waits), name="key")
    return SharedLimiter(node.registry, "key")


def ref_of(node: Node) -> ActorRef[RateLimiter]:
    ref = node.registry.whereis("key")
    assert ref is not None
    return ref


async def test_clients_are_kept_to_the_rate(
    node: Node, autojump_clock: MockClock
) -> None:
    limiter = await start(node, Limits(requests_per_minute=600))  # ten a second
    times: list[float] = []

    async def call() -> None:
        async with limiter.permit(1):
            times.append(trio.current_time())

    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(call)
    assert len(times) == 50
    assert max(times) - started == pytest.approx(4.0, abs=0.01)


async def test_concurrency_is_bounded(node: Node, autojump_clock: MockClock) -> None:
    limiter = await start(node, Limits(concurrency=3))
    running: list[int] = []
    most = 0

    async def call(number: int) -> None:
        nonlocal most
        async with limiter.permit(1):
            running.append(number)
            most = max(most, len(running))
            await trio.sleep(1)
            running.remove(number)

    async with trio.open_nursery() as nursery:
        for number in range(9):
            nursery.start_soon(call, number)
    assert most == 3
    assert trio.current_time() == pytest.approx(3.0, abs=0.01)


async def test_a_throttled_caller_pauses_all(
    node: Node, autojump_clock: MockClock
) -> None:
    limiter = await start(node, Limits())
    async with limiter.permit(1) as permit:
        permit.throttled(30.0)
    async with limiter.permit(1):
        assert trio.current_time() == pytest.approx(30.0, abs=0.01)
    statistics = await ref_of(node).call(RateLimiter.statistics)
    assert statistics.factor == 0.5


async def test_callers_of_different_names_take_turns(
    node: Node, autojump_clock: MockClock
) -> None:
    limiter = await start(node, Limits(concurrency=1))
    order: list[str] = []

    async def call(caller: str) -> None:
        with as_caller(caller):
            async with limiter.permit(1):
                order.append(caller)
                await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(call, "greedy")
        await trio.sleep(0.5)
        for _ in range(2):
            nursery.start_soon(call, "modest")
    assert order.index("modest") <= 2
    assert order[:6].count("modest") == 2


async def test_a_thousand_cancelled_callers_give_their_slots_back(
    node: Node, autojump_clock: MockClock
) -> None:
    limiter = await start(node, Limits(concurrency=10))

    async def call(number: int) -> None:
        with trio.move_on_after(number % 37 / 10):
            async with limiter.permit(1):
                await trio.sleep(number % 5 / 10)

    async with trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(call, number)
    await trio.testing.wait_all_tasks_blocked()
    async with limiter.permit(1):
        statistics = await ref_of(node).call(RateLimiter.statistics)
    assert (statistics.running, statistics.waiting) == (1, 0)


async def test_it_can_refuse_instead_of_waiting(
    node: Node, autojump_clock: MockClock
) -> None:
    limiter = await start(node, Limits(concurrency=1), waits=False)
    async with limiter.permit(1):
        with pytest.raises(LimitExceededError, match=r"key: .* used up"):
            async with limiter.permit(1):
                pass
    async with limiter.permit(1):
        pass


async def test_more_callers_than_may_wait_are_refused(
    node: Node, autojump_clock: MockClock
) -> None:
    limiter = await start(node, Limits(concurrency=1, max_waiting=5))
    refused = 0

    async def call() -> None:
        nonlocal refused
        try:
            async with limiter.permit(1):
                await trio.sleep(1)
        except LimitExceededError:
            refused += 1

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(call)
    assert refused == 4


async def test_callers_outlive_a_restart_of_the_limiter(
    autojump_clock: MockClock,
) -> None:
    async with open_node() as node:
        spec = ChildSpec("key", RateLimiter, args=(Limits(concurrency=1),), name="key")
        await node.start(Supervisor([spec]), name="root")
        limiter = SharedLimiter(node.registry, "key")
        done = 0

        async def call() -> None:
            nonlocal done
            async with limiter.permit(1):
                await trio.sleep(1)
            done += 1

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(call)
            await trio.sleep(0.5)
            ref_of(node).exit("kill")
        assert done == 5


async def test_the_deadline_ends_a_wait_and_nothing_else() -> None:
    """Not an error of a call to the limiter, which a busy loop may find due first."""
    async with open_node() as node:
        await node.start(RateLimiter(Limits(concurrency=1)), name="key")
        limiter = SharedLimiter(node.registry, "key")
        cancelled = 0

        async def wait_in_vain() -> None:
            nonlocal cancelled
            with trio.move_on_after(0.1) as scope:
                time.sleep(0.0005)  # noqa: ASYNC251
                async with limiter.permit(1):
                    raise AssertionError
            cancelled += scope.cancelled_caught

        async with limiter.permit(1), trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(wait_in_vain)
        assert cancelled == 200
