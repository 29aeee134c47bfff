"""A process that reads slowly what it is sent: nobody waits, and nothing is lost."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from dspex.runtime import ActorRef, open_node
from dspex.runtime.bridge import DspyCall, DspyPool, PoolSettings, RunTimeoutError
from dspex.runtime.bridge.testing import no_model
from tests.integration.bridge_processes import HOSTED

MB = 1024 * 1024
# It takes at least 2.5 seconds for 20 MB.
SLOW = {"size": 16_384, "pause": 0.002}
SECONDS = 2.5


class Slow:
    """A pool, and one of its processes that reads slowly."""

    def __init__(self, pool: ActorRef[DspyPool]) -> None:
        self.pool = pool

    async def ask(
        self, function: str, *, timeout: float = 60, **inputs: object
    ) -> dict[str, Any]:
        return await self._run(function, inputs, timeout, "the slow one's")

    async def ask_another(self) -> None:
        await self._run("pid", {}, 30, None)

    async def _run(
        self,
        function: str,
        inputs: dict[str, object],
        timeout: float,
        session: str | None,
    ) -> dict[str, Any]:
        call = DspyCall(
            module=f"hosted_faults:{function}",
            inputs=inputs,
            session=session,
            timeout=timeout,
        )
        result = await self.pool.call(DspyPool.run, call, no_model, timeout=90)
        return result.outputs

    async def wait_busy(self) -> None:
        with trio.fail_after(10):
            while (await self.pool.call(DspyPool.statistics)).busy == 0:
                await trio.sleep(0.001)


@pytest.fixture
async def slow() -> AsyncIterator[Slow]:
    async with open_node() as node:
        settings = PoolSettings(min_size=2, max_size=2, spares=0)
        slow = Slow(await node.start(DspyPool(settings, search_path=[HOSTED])))
        await slow.ask("read_slowly", **SLOW)
        await slow.ask("pid")  # it was reading already
        yield slow
        # Whatever happened: the pool works, at its size.
        await slow.ask_another()
        with trio.fail_after(10):
            while (await slow.pool.call(DspyPool.statistics)).size < 2:
                await trio.sleep(0.01)


async def test_a_large_frame_for_a_slow_reader_delays_nobody_and_arrives_whole(
    slow: Slow,
) -> None:
    pid = await slow.ask("pid")
    given: list[dict[str, Any]] = []
    began = trio.current_time()

    async def send_much() -> None:
        given.append(await slow.ask("length", text="x" * (20 * MB)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_much)
        await slow.wait_busy()
        for _ in range(10):
            await slow.ask_another()
        assert not given
        assert (await slow.pool.call(DspyPool.statistics)).busy == 1
    assert trio.current_time() - began > SECONDS
    assert given == [{"length": 20 * MB}]
    assert await slow.ask("pid") == pid
    counts = await slow.pool.call(DspyPool.statistics)
    assert (counts.died, counts.unhealthy) == (0, 0)


async def test_a_slow_reader_is_killed_at_the_timeout_of_its_run(slow: Slow) -> None:
    began = trio.current_time()
    with pytest.raises(RunTimeoutError):
        await slow.ask("length", timeout=0.5, text="x" * (20 * MB))
    assert 0.5 <= trio.current_time() - began < SECONDS
    counts = await slow.pool.call(DspyPool.statistics)
    assert (counts.timed_out, counts.failed) == (1, 0)


async def test_a_caller_that_leaves_a_slow_reader_leaves_no_half_frame(
    slow: Slow,
) -> None:
    with trio.move_on_after(0.3) as scope:
        await slow.ask("length", text="x" * (20 * MB))
    assert scope.cancelled_caught
    # It has half a frame and reads no cancellation behind it: it is replaced.
    with trio.fail_after(SECONDS):
        while (await slow.pool.call(DspyPool.statistics)).busy:
            await trio.sleep(0.01)
    assert (await slow.pool.call(DspyPool.statistics)).cancelled == 1


async def test_many_small_messages_to_a_slow_reader_are_all_answered(
    slow: Slow,
) -> None:
    await slow.ask("read_slowly", size=512, pause=0.002)
    await slow.ask("pid")
    for number in range(20):
        text = "x" * (5_000 + number)
        assert await slow.ask("length", text=text) == {"length": 5_000 + number}
