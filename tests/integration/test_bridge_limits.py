"""What a hosted process may use: processes, memory, CPU."""

from functools import partial
from pathlib import Path

import pytest
import trio

from dspex.runtime import ActorRef, CalleeExitedError, Node
from dspex.runtime.bridge import (
    DspyPool,
    Limits,
    PoolSettings,
    RemoteError,
    WorkerDiedError,
)
from tests.integration.bridge_processes import HOSTED, MB, run


@pytest.fixture
async def pool(robust_pool: ActorRef[DspyPool]) -> ActorRef[DspyPool]:
    return robust_pool


async def test_a_fork_bomb_is_refused(pool: ActorRef[DspyPool]) -> None:
    with pytest.raises(RemoteError, match="this worker may have 8 processes"):
        await run(pool, "fork_bomb")


async def test_a_memory_bomb_is_refused(node: Node) -> None:
    settings = PoolSettings(spares=0, limits=Limits(memory_bytes=200 * MB))
    pool = await node.start(DspyPool(settings, search_path=[HOSTED]))
    with pytest.raises(RemoteError, match="MemoryError"):
        await run(pool, "memory_bomb")
    assert await run(pool, "length", text="abc") == {"length": 3}


async def test_a_process_without_memory_for_another_run_says_so(
    node: Node, tmp_path: Path
) -> None:
    limits = Limits(memory_bytes=200 * MB)
    settings = PoolSettings(max_size=1, spares=0, concurrency=11, limits=limits)
    pool = await node.start(DspyPool(settings, search_path=[HOSTED]))
    note = tmp_path / "note"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(run, pool, "hold_all_memory", seconds=60, note=str(note))
        )
        with trio.fail_after(10):
            while not (note.exists() and note.read_text()):
                await trio.sleep(0.01)
        # The first ones may find the stacks of threads that have ended.
        refused = pytest.RaisesExc(RemoteError, match="new thread")
        with trio.fail_after(10), pytest.RaisesGroup(refused):
            async with trio.open_nursery() as threads:
                for _ in range(10):
                    threads.start_soon(partial(run, pool, "sleep", seconds=60))
                    await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


async def test_too_much_cpu_is_the_end(node: Node) -> None:
    settings = PoolSettings(spares=0, limits=Limits(cpu_seconds=1))
    pool = await node.start(DspyPool(settings, search_path=[HOSTED]))
    with pytest.raises(CalleeExitedError) as caught:
        await run(pool, "spin_in_c")
    assert isinstance(caught.value.reason, WorkerDiedError)
    assert caught.value.reason.signal == "SIGXCPU"
