"""The pool with real processes: sizes, queue, sessions, wear, health."""

import dataclasses
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from dspex.runtime import ActorRef, CalleeExitedError, Node, StartError
from dspex.runtime.bridge import (
    BridgeUnavailableError,
    DspyBridge,
    DspyCall,
    DspyPool,
    PoolFullError,
    PoolSettings,
    PoolStatistics,
    QueueTimeoutError,
    RunTimeoutError,
    SessionWorkerUnavailableError,
    TooManySessionsError,
    WorkerDiedError,
)
from dspex.runtime.bridge.testing import ScriptedModel, fields, no_model
from dspex.supervisors import ChildSpec, Supervisor
from tests.integration.bridge_processes import HOSTED, run


async def start(node: Node, **settings: Any) -> ActorRef[DspyPool]:
    pool = DspyPool(PoolSettings(**settings), search_path=[HOSTED])
    return await node.start(pool, name="pool")


async def statistics(pool: ActorRef[DspyPool]) -> PoolStatistics:
    return await pool.call(DspyPool.statistics)


async def eventually(claim: Callable[[PoolStatistics], bool], pool: Any) -> None:
    with trio.fail_after(10):
        while not claim(await statistics(pool)):
            await trio.sleep(0.01)


async def test_c7_l3_eight_processes_start_together_and_work_together(
    node: Node,
) -> None:
    pool = await start(node, min_size=8, spares=0)
    pids: set[int] = set()

    async def one() -> None:
        result = await run(pool, "sleep_and_pid", seconds=0.5)
        pids.add(result["pid"])

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(one)
    assert len(pids) == 8
    assert trio.current_time() - began < 2 * 0.5


async def test_c7_a_waiting_run_gives_up_at_the_queue_timeout(node: Node) -> None:
    pool = await start(node, max_size=1, spares=0, queue_timeout=0.3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: run(pool, "sleep", seconds=1.0))
        await eventually(lambda s: s.busy == 1, pool)
        with pytest.raises(QueueTimeoutError, match=r"hosted_faults:pid waited 0\.3 s"):
            await run(pool, "pid")
    assert (await statistics(pool)).queue_timeouts == 1


async def test_c7_l7_a_cancelled_waiter_is_never_run(
    node: Node, tmp_path: Path
) -> None:
    pool = await start(node, max_size=1, spares=0)
    mark = tmp_path / "mark"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: run(pool, "sleep", seconds=0.5))
        await eventually(lambda s: s.busy == 1, pool)
        with trio.move_on_after(0.1):
            await run(pool, "note", path=str(mark))
        await eventually(lambda s: s.busy == 0, pool)
        await run(pool, "pid")
    assert not mark.exists()


async def test_c7_l8_a_session_whose_process_died_is_told_so_once(node: Node) -> None:
    pool = await start(node)

    async def call(function: str, **inputs: object) -> dict[str, Any]:
        call = DspyCall(module=f"hosted_faults:{function}", inputs=inputs, session="s")
        result = await pool.call(DspyPool.run, call, no_model, timeout=30)
        return result.outputs

    first = await call("remember", key="k", value=7)
    assert await call("recall", key="k") == {"value": 7, "pid": first["pid"]}
    os.kill(first["pid"], signal.SIGKILL)
    await eventually(lambda s: s.died == 1, pool)
    with pytest.raises(SessionWorkerUnavailableError, match="session 's' is gone"):
        await call("recall", key="k")
    second = await call("recall", key="k")
    assert second["value"] is None
    assert second["pid"] != first["pid"]


async def test_l9_sessions_are_bounded_and_can_be_ended(node: Node) -> None:
    pool = await start(node, session_limit=1)

    async def call(session: str) -> None:
        call = DspyCall(module="hosted_faults:pid", inputs={}, session=session)
        await pool.call(DspyPool.run, call, no_model, timeout=30)

    await call("one")
    with pytest.raises(TooManySessionsError, match="session 'two' would be one more"):
        await call("two")
    await pool.call(DspyPool.end_session, "one")
    await call("two")


async def test_l10_l12_without_any_setting_a_slow_model_is_waited_for(
    node: Node,
) -> None:
    assert PoolSettings().run_timeout >= 600
    assert PoolSettings().optimize_timeout >= 3600
    pool = await node.start(DspyPool())
    call = DspyCall(
        module="dspy.ChainOfThought",
        signature="question -> answer",
        inputs={"question": "?"},
    )
    model = ScriptedModel(fields(reasoning="so", answer="yes"), seconds=0.3)
    result = await pool.call(DspyPool.run, call, model, timeout=60)
    assert result.outputs == {"reasoning": "so", "answer": "yes"}


async def test_a_full_queue_refuses_at_once(node: Node) -> None:
    pool = await start(node, max_size=1, spares=0, queue_limit=2)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(lambda: run(pool, "sleep", seconds=0.2))
        await eventually(lambda s: s.queued == 2, pool)
        with pytest.raises(PoolFullError, match="pool 'pool' is full"):
            await run(pool, "pid")
    counts = await statistics(pool)
    assert (counts.rejected, counts.served, counts.queued) == (1, 3, 0)


async def test_a_thousand_runs_at_once_are_all_answered(node: Node) -> None:
    pool = await start(node, max_size=4)
    results: list[int] = []

    async def one(number: int) -> None:
        call = DspyCall(
            module="hosted_faults:square",
            signature="number: int -> square: int",
            inputs={"number": number},
        )
        result = await pool.call(DspyPool.run, call, no_model, timeout=60)
        results.append(result.outputs["square"])

    async with trio.open_nursery() as nursery:
        for number in range(1000):
            nursery.start_soon(one, number)
    assert sorted(results) == [number * number for number in range(1000)]
    assert (await statistics(pool)).size <= 5


async def test_l7_the_pool_grows_with_demand_and_shrinks_without(node: Node) -> None:
    pool = await start(node, max_size=4, spares=0, idle_timeout=0.2)
    assert (await statistics(pool)).size == 1
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(lambda: run(pool, "sleep", seconds=0.3))
        await eventually(lambda s: s.busy == 4, pool)
    await eventually(lambda s: s.size == 1, pool)


async def test_a_process_is_replaced_after_its_calls(node: Node) -> None:
    pool = await start(node, max_size=1, spares=0, max_calls=2)
    pids = [(await run(pool, "pid"))["pid"] for _ in range(6)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4] == pids[5]
    counts = await statistics(pool)
    assert (counts.recycled, counts.died) == (3, 0)


@pytest.mark.parametrize(
    "settings", [{"max_age": 0.2}, {"max_memory_bytes": 1}], ids=["age", "memory"]
)
async def test_a_worn_out_process_is_replaced(
    settings: dict[str, Any], node: Node
) -> None:
    pool = await start(node, spares=0, ping_interval=0.1, **settings)
    (before,) = await pool.call(DspyPool.pids)
    await eventually(lambda s: s.recycled >= 1 and s.size == 1, pool)
    assert before not in await pool.call(DspyPool.pids)


async def test_a_stopped_idle_process_is_found_sick_and_replaced(node: Node) -> None:
    pool = await start(node, spares=0, ping_interval=0.1, ping_timeout=0.2)
    (before,) = await pool.call(DspyPool.pids)
    os.kill(before, signal.SIGSTOP)
    await eventually(lambda s: s.unhealthy == 1 and s.size == 1, pool)
    assert (await run(pool, "pid"))["pid"] != before


async def test_a_process_that_is_stopped_in_a_run_is_found_long_before_its_timeout(
    node: Node,
) -> None:
    pool = await start(node, stopped_timeout=0.3)
    failed: list[BaseException] = []

    async def stopped() -> None:
        with pytest.raises(CalleeExitedError) as caught:
            await run(pool, "stop_itself", timeout=60)
        failed.append(caught.value)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stopped)
            # Its neighbour computes in C all the while, and is left alone.
            spun = await run(pool, "spin_in_c_for", seconds=1.0)
    assert spun == {"spun": 1.0}
    assert len(failed) == 1
    counts = await statistics(pool)
    assert (counts.unhealthy, counts.timed_out, counts.failed) == (1, 0, 1)
    assert await run(pool, "sleep", seconds=0) == {"slept": 0}


async def test_a_ping_and_a_cancel_are_read_while_a_run_computes(node: Node) -> None:
    bridge = await node.start(DspyBridge(search_path=[HOSTED]))

    async def burn() -> None:
        call = DspyCall(module="hosted_faults:burn", inputs={"seconds": 2.0})
        await bridge.call(DspyBridge.run, call, no_model)

    async with trio.open_nursery() as nursery:
        for _ in range(2):  # the second one in a thread of its own
            nursery.start_soon(burn)
        await trio.sleep(0.1)
        began = trio.current_time()
        await bridge.call(DspyBridge.ping)
        assert trio.current_time() - began < 1
        short = DspyCall(module="hosted_faults:square", inputs={"number": 3})
        short = dataclasses.replace(short, signature="number -> squared")
        result = await bridge.call(DspyBridge.run, short, no_model)
        assert trio.current_time() - began < 1.5
        nursery.cancel_scope.cancel()
    assert result.outputs == {"squared": 9}


async def test_a_busy_process_is_not_sick(node: Node) -> None:
    pool = await start(node, spares=0, ping_interval=0.05, ping_timeout=0.05)
    assert await run(pool, "spin_in_c_for", seconds=0.5) == {"spun": 0.5}
    assert (await statistics(pool)).unhealthy == 0


async def test_c8_l10_a_hanging_run_is_killed_at_its_timeout_and_only_that(
    node: Node,
) -> None:
    pool = await start(node, min_size=2)
    neighbour: list[dict[str, Any]] = []

    async def other() -> None:
        neighbour.append(await run(pool, "sleep", seconds=1.0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        for function in ("spin", "spin_in_c"):
            with pytest.raises(RunTimeoutError, match=rf"{function} ran over its 0\.3"):
                await run(pool, function, timeout=0.3)
    assert neighbour == [{"slept": 1.0}]
    counts = await statistics(pool)
    assert (counts.timed_out, counts.died) == (2, 0)


async def test_c8_burning_cpu_in_a_process_does_not_delay_native_actors(
    node: Node,
) -> None:
    pool = await start(node)
    late: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: run(pool, "burn", seconds=1.0))
        await eventually(lambda s: s.busy == 1, pool)
        for _ in range(50):
            began = trio.current_time()
            await pool.call(DspyPool.pids)
            late.append(trio.current_time() - began)
            await trio.sleep(0.005)
    assert sorted(late)[len(late) // 2] < 0.05


async def test_a_running_call_that_is_cancelled_stops(
    node: Node, tmp_path: Path
) -> None:
    pool = await start(node, max_size=1, spares=0, cancel_grace=0.1)
    mark = tmp_path / "mark"
    (before,) = await pool.call(DspyPool.pids)
    with trio.move_on_after(0.2):
        await run(pool, "sleep_then_note", path=str(mark), seconds=0.6)
    assert (await run(pool, "pid"))["pid"] != before
    await trio.sleep(0.6)
    assert not mark.exists()
    assert (await statistics(pool)).cancelled == 1


async def test_a_cancelled_call_that_waits_for_the_model_keeps_its_process(
    node: Node,
) -> None:
    pool = await start(node, max_size=1, spares=0)
    (before,) = await pool.call(DspyPool.pids)
    call = DspyCall(
        module="dspy.Predict", signature="question -> answer", inputs={"question": "?"}
    )
    with trio.move_on_after(0.3):
        await pool.call(DspyPool.run, call, ScriptedModel("", seconds=60), timeout=60)
    model = ScriptedModel(fields(answer="yes"))
    result = await pool.call(DspyPool.run, call, model, timeout=30)
    assert result.outputs == {"answer": "yes"}
    assert await pool.call(DspyPool.pids) == [before]


async def test_c3_kill_9_during_a_run_is_a_typed_error_and_the_next_works(
    node: Node,
) -> None:
    pool = await start(node)
    with pytest.raises(CalleeExitedError) as caught:
        await run(pool, "raise_signal", number=int(signal.SIGKILL))
    reason = caught.value.reason
    assert isinstance(reason, WorkerDiedError)
    assert reason.signal == "SIGKILL"
    assert await run(pool, "length", text="abc") == {"length": 3}
    await eventually(lambda s: (s.died, s.size) == (1, 2), pool)


async def test_a_killed_fork_server_comes_back_with_its_processes(node: Node) -> None:
    pool = await start(node)
    before = set(await pool.call(DspyPool.pids))
    (parent,) = {parent_of(pid) for pid in before}
    os.kill(parent, signal.SIGKILL)
    await eventually(lambda s: (s.fork_server_restarts, s.died) == (1, 2), pool)
    await eventually(lambda s: s.size == 2, pool)
    assert not before & set(await pool.call(DspyPool.pids))
    assert await run(pool, "length", text="abc") == {"length": 3}


async def test_an_interpreter_without_dspy_fails_the_start(
    node: Node, tmp_path: Path
) -> None:
    with pytest.raises(StartError) as caught:
        await node.start(DspyPool(python="/no/such/python"))
    reason = caught.value.reason
    assert isinstance(reason, StartError)
    assert isinstance(reason.reason, BridgeUnavailableError)


def parent_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/stat").read_text()
    return int(status.rpartition(")")[2].split()[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_size": -1}, "min_size = -1: must be at least 0"),
        ({"min_size": 5, "max_size": 4}, "max_size = 4: must be at least 5"),
        ({"concurrency": 0}, "concurrency = 0: must be at least 1"),
    ],
)
def test_sizes_that_cannot_work_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        PoolSettings(**settings)


async def test_a_killed_pool_is_started_once_for_each_kill(node: Node) -> None:
    pool = partial(DspyPool, PoolSettings(), search_path=[HOSTED])
    spec = ChildSpec("pool", pool, name="pool")
    top = await node.start(Supervisor([spec], intensity=2, period=60))
    for _ in range(2):
        before = await node.registry.wait_for("pool")
        before.exit("kill")
        await before.wait_exit()
    after: ActorRef[DspyPool] = await node.registry.wait_for("pool", 20)
    assert (await run(after, "sleep_and_pid", seconds=0.0))["pid"]
    assert top.is_alive
