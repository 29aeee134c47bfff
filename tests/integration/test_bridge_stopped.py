"""A fork-server that a signal has stopped: what is needed of it, and nothing lost."""

import os
import signal
from pathlib import Path

import pytest
import trio

from dspex.runtime import ActorRef, Node
from dspex.runtime.bridge import DspyCall, DspyPool, PoolSettings, pool_forks
from dspex.runtime.bridge.pool_worker import is_stopped
from dspex.runtime.bridge.testing import no_model
from tests.integration.bridge_processes import HOSTED


async def start(node: Node, *, stopped_timeout: float) -> ActorRef[DspyPool]:
    settings = PoolSettings(max_size=4, spares=0, stopped_timeout=stopped_timeout)
    return await node.start(DspyPool(settings, search_path=[HOSTED]))


async def run(pool: ActorRef[DspyPool], seconds: float) -> None:
    call = DspyCall(module="hosted_faults:sleep", inputs={"seconds": seconds})
    await pool.call(DspyPool.run, call, no_model, timeout=30)


async def stop_server(pool: ActorRef[DspyPool]) -> int:
    (pid,) = await pool.call(DspyPool.pids)
    stat = Path(f"/proc/{pid}/stat").read_text()
    server = int(stat.rpartition(")")[2].split()[1])
    os.kill(server, signal.SIGSTOP)
    while not is_stopped(server):
        await trio.sleep(0.001)
    return server


async def grow(pool: ActorRef[DspyPool]) -> None:
    """Have four runs at once, one of which has a process already."""
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(run, pool, 1.0)


async def test_a_stopped_server_that_is_needed_goes_on_and_no_run_is_lost(
    node: Node,
) -> None:
    pool = await start(node, stopped_timeout=0.3)
    (pid,) = await pool.call(DspyPool.pids)
    server = await stop_server(pool)
    await grow(pool)
    assert not is_stopped(server)
    assert pid in await pool.call(DspyPool.pids)
    counts = await pool.call(DspyPool.statistics)
    assert (counts.size, counts.served, counts.failed) == (4, 4, 0)
    assert (counts.died, counts.fork_server_restarts) == (0, 0)


async def test_a_stopped_server_that_nobody_needs_is_left_alone(node: Node) -> None:
    pool = await start(node, stopped_timeout=0.1)
    server = await stop_server(pool)
    for _ in range(3):
        await run(pool, 0.2)
    assert is_stopped(server)
    os.kill(server, signal.SIGCONT)
    await grow(pool)
    assert (await pool.call(DspyPool.statistics)).fork_server_restarts == 0


async def test_starts_that_fail_side_by_side_are_one_failure(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_forks, "_FORK_SECONDS", 0.2)
    pool = await start(node, stopped_timeout=1_000)
    await stop_server(pool)
    # The run that has a process ends before the second failure, which ends the server.
    await run(pool, 0)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for seconds in (0, 0.1, 0.1, 0.1):
                nursery.start_soon(run, pool, seconds)
    assert (await pool.call(DspyPool.statistics)).failed == 0
